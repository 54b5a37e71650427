//! Arrays and bytes that travel by reference, by whatever way the carrier and the language have for them.

use kernelbridge::{
    blob::{self, Array, ArrayMut},
    host::{Host, News},
    rpc::HandlerKind,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    subject::{Report, Subject},
    values::{equal, wait},
};

/// An array somewhere inside.
#[derive(Serialize, Deserialize)]
struct Outer {
    inner: Inner,
    n: f64,
}

#[derive(Serialize, Deserialize)]
struct Inner {
    array: Array,
    text: String,
}

pub async fn blob_cases(host: &Host, subject: &Subject, report: &mut Report, other: bool) {
    let plugin = subject.plugin_name();
    let call = |function: &str, args: Value| {
        let name = format!("{plugin}.{function}");
        async move { host.call::<Array>(&name, args).await.map_err(|error| error.report()) }
    };
    // Where it goes as text, that is several times as long, and goes through Octave's terminal four times in one case.
    let large = (subject.limit() / 10).min(1_000_000) / 8;
    let numbers: Vec<f64> = (0..large).map(|n| n as f64 / 4.0).collect();
    let exports_sum =
        |handler: &kernelbridge::rpc::Handler| handler.kind == HandlerKind::Export && handler.name == "sum";
    if host.plugins()[0].handlers.iter().any(exports_sum) {
        report
            .case("array: in, and its sum back", async {
                let array = Array::from(&numbers);
                let sum: f64 = host.call(&format!("{plugin}.sum"), (&array,)).await.map_err(|error| error.report())?;
                equal(json!(sum), json!(numbers.iter().sum::<f64>()))
            })
            .await;
    }
    report
        .case("array: there and back", async {
            let array = Array::from(&numbers);
            same(&call("identity", json!([array])).await?, &numbers, &[large])
        })
        .await;
    report
        .case("array: a short one there and back", async {
            same(&call("identity", json!([Array::from(&[1.5, -2.0, 3.25][..])])).await?, &[1.5, -2.0, 3.25], &[3])
        })
        .await;
    report
        .case("array: asked for as a list", async {
            let array = Array::from(&numbers);
            let name = format!("{plugin}.identity");
            let list: Vec<f64> = host.call(&name, (array,)).await.map_err(|error| error.report())?;
            if list == numbers { Ok(()) } else { Err(format!("{} numbers, not {large}", list.len())) }
        })
        .await;
    report
        .case("array: of integers, two dimensions, filled in place", async {
            let mut table = ArrayMut::<i32>::zeroed(&[200, 150]).map_err(|error| error.to_string())?;
            for (index, element) in table.iter_mut().enumerate() {
                *element = index as i32 - 7;
            }
            let expected: Vec<f64> = table.iter().map(|&element| element.into()).collect();
            let table = table.finish().map_err(|error| error.to_string())?;
            same(&call("identity", json!([table])).await?, &expected, &[200, 150])?;
            let small = Array::new(&[1i32, 2, 3, 4, 5, 6], &[2, 3]).map_err(|error| error.to_string())?;
            same(&call("identity", json!([small])).await?, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])
        })
        .await;
    report
        .case("array: empty", async {
            let back = call("identity", json!([Array::from(&[] as &[f64])])).await?;
            equal(json!(back.len()), json!(0))
        })
        .await;
    let bytes: Vec<u8> = (0..large * 8).map(|n| (n * 31 % 251) as u8).collect();
    report
        .case("bytes", async {
            for length in [0, 1000, bytes.len()] {
                let sent = Array::bytes(&bytes[..length]).map_err(|error| error.to_string())?;
                let back = call("identity", json!([sent])).await?;
                if back.to_vec::<u8>().map_err(|error| error.to_string())? != bytes[..length] {
                    return Err(format!("{length} bytes came back as {back:?}"));
                }
            }
            Ok(())
        })
        .await;
    report
        .case("array: inside of an object", async {
            let inner = Inner { array: Array::from(&numbers), text: "a \"$blob\": b".into() };
            let name = format!("{plugin}.identity");
            let outer: Outer = host.call(&name, (Outer { inner, n: 7.0 },)).await.map_err(|error| error.report())?;
            equal(json!([outer.n, outer.inner.text]), json!([7, "a \"$blob\": b"]))?;
            same(&outer.inner.array, &numbers, &[large])
        })
        .await;
    report
        .case("array: in an event's data, and in a handler's result", async {
            let mut news = host.subscribe();
            let array = Array::from(&numbers);
            host.emit("conf.echo", &json!({ "array": array })).await.map_err(|error| error.report())?;
            drop(array);
            let back = wait(&mut news, |news| match news {
                News::Handled { plugin: from, result, held, .. } if **from == *plugin => {
                    Some((result.clone(), held.clone()))
                }
                _ => None,
            });
            #[derive(Deserialize)]
            struct Echo {
                data: Data,
            }
            #[derive(Deserialize)]
            struct Data {
                array: Array,
            }
            let (result, _held) = back.await?;
            let echo: Echo = blob::read(result.get()).map_err(|error| error.to_string())?;
            same(&echo.data.array, &numbers, &[large])
        })
        .await;
    report
        .case("array: through the state", async {
            let array = Array::from(&numbers);
            let key = format!("array/{plugin}");
            let back = call("state_roundtrip", json!([key, array])).await?;
            same(&back, &numbers, &[large])
        })
        .await;
    if other {
        report
            .case("array: to another plugin and back", async {
                let array = Array::from(&numbers);
                let back = call("call_host", json!(["conformance-other.identity", [array]])).await?;
                same(&back, &numbers, &[large])
            })
            .await;
    }
    report
        .case("array: a name that is not ours is refused", async {
            let lie = json!({ "$blob": "/etc/passwd", "dtype": "u8", "shape": [10] });
            match call("identity", json!([lie])).await {
                Err(error) if error.contains("`/etc/passwd`, which is no blob that anybody holds") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
}

fn same(found: &Array, numbers: &[f64], shape: &[usize]) -> Result<(), String> {
    equal(json!(found.shape()), json!(shape))?;
    let found = found.to_vec::<f64>().map_err(|error| error.to_string())?;
    match found.iter().zip(numbers).position(|(found, number)| found != number) {
        None => Ok(()),
        Some(index) => Err(format!("at {index}: {}, not {}", found[index], numbers[index])),
    }
}
