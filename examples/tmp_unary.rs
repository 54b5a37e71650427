use futures_util::future::join_all;
use kernelbridge::host::{Host, News};
use serde_json::{Value, json};
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let dir = tempfile::tempdir().unwrap();
    let lang = args.get(1).cloned().unwrap_or("python".into());
    let (ext, code) = match lang.as_str() {
        "python" => ("py", "
@bridge.export
def f(r):
    return {'id': r['id'], 'text': r['text'].upper(), 'value': r['value'] + 1}
@bridge.export
def nested(n):
    import time
    a = time.perf_counter()
    for _ in range(n): bridge.call('app.f', {'id': 7, 'text': 'x'*64, 'value': 1.5})
    return (time.perf_counter() - a) / n * 1e6
@bridge.on('t')
def g(e):
    r = e['data']
    return {'id': r['id'], 'text': r['text'].upper(), 'value': r['value'] + 1}
"),
        _ => ("ts", "
bridge.export('f', (r) => ({id: r.id, text: r.text.toUpperCase(), value: r.value + 1}));
bridge.export('nested', (n) => { const a = performance.now(); for (let i = 0; i < n; i++) bridge.call('app.f', {id: 7, text: 'x'.repeat(64), value: 1.5}); return (performance.now() - a) / n * 1000; });
bridge.on('t', (e) => { const r = e.data; return ({id: r.id, text: r.text.toUpperCase(), value: r.value + 1}); });
"),
    };
    let act = args.get(2).cloned().unwrap_or("auto".into());
    std::fs::write(dir.path().join("plugin.toml"), format!("[plugin]\nname='p'\nlanguage='{lang}'\nentry='plugin.{ext}'\nactivation='{act}'\n[permissions]\ncall=['app.*']\n")).unwrap();
    std::fs::write(dir.path().join(format!("plugin.{ext}")), code).unwrap();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let host = Host::builder()
            .plugin(dir.path())
            .function("app.f", |(r,): (Value,)| async move { Ok::<_, String>(r) })
            .build()
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        println!("{:?}", host.plugins()[0].about);
        let rec = json!({"id": 7, "text": "x".repeat(64), "value": 1.5});
        let pct = |v: &mut Vec<f64>| {
            v.sort_by(f64::total_cmp);
            format!("p10 {:.1} p50 {:.1} p99 {:.1}", v[v.len() / 10], v[v.len() / 2], v[v.len() * 99 / 100])
        };
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Rec {
            id: i64,
            text: String,
            value: f64,
        }
        let r = Rec { id: 7, text: "x".repeat(64), value: 1.5 };
        for _ in 0..500 {
            host.call::<Rec>("p.f", (&r,)).await.unwrap();
        }
        let mut v = vec![];
        for _ in 0..5000 {
            let a = Instant::now();
            let x = host.call::<Rec>("p.f", (&r,)).await.unwrap();
            assert_eq!(x.value, 2.5);
            v.push(a.elapsed().as_secs_f64() * 1e6);
        }
        println!("call: {}", pct(&mut v));
        let mut news = host.subscribe();
        let mut v = vec![];
        for _ in 0..3000 {
            let a = Instant::now();
            host.emit("t", &r).await.unwrap();
            while !matches!(news.next().await, Some(News::Handled { .. })) {}
            v.push(a.elapsed().as_secs_f64() * 1e6);
        }
        println!("event: {}", pct(&mut v));
        drop(news);
        let mut v = vec![];
        for _ in 0..200 {
            let a = Instant::now();
            let all = join_all((0..64).map(|_| host.call::<Rec>("p.f", (&r,)))).await;
            assert!(all.iter().all(|x| x.as_ref().unwrap().value == 2.5));
            v.push(a.elapsed().as_secs_f64() * 1e6 / 64.0);
        }
        println!("64 calls together, each: {}", pct(&mut v));
        let mut v = vec![];
        for _ in 0..20 {
            let a = Instant::now();
            for _ in 0..1000 {
                host.emit("t", &rec).await.unwrap();
            }
            host.drain().await;
            v.push(a.elapsed().as_secs_f64() * 1e6 / 1000.0);
        }
        println!("1000 events, each: {}", pct(&mut v));
        let mut v = vec![];
        for _ in 0..10 {
            v.push(host.call::<f64>("p.nested", (500,)).await.unwrap());
        }
        println!("host call inside: {}", pct(&mut v));
        host.shutdown().await;
    });
}
