//! Many kernels started at the same time, again and again.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kernelbridge::{
    client::{KernelClient, LaunchOptions},
    discover::{Environment, Languages, discover},
    host::runtime_for,
    provision::{LaunchSpec, memory_bytes},
    wire::content::ExecuteRequest,
};

/// How long all of them together may take.
const STARTUP: Duration = Duration::from_secs(600);

/// Start so many ipykernels, let each do something, end them.
pub async fn run(kernels: u64, times: u64) {
    let environment = Environment::capture();
    let (discovery, languages) = (discover(&environment), Languages::load(&environment, &[]));
    let found = languages.kernelspec_for(&discovery, "python").expect("a Python kernel");
    let runtime = runtime_for(found, &languages, &environment);
    let options = LaunchOptions {
        spec: LaunchSpec {
            kernel_name: runtime.kernelspec.clone(),
            argv: runtime.argv.clone(),
            env: runtime.env.clone(),
            ..LaunchSpec::default()
        },
        startup: STARTUP,
        interrupt: runtime.interrupt,
        no_control: false,
        no_shutdown: false,
        unready_version: None,
    };
    let (mut failed, before) = (0, memory_bytes(std::process::id()));
    for round in 1..=times {
        let began = Instant::now();
        let launches = (0..kernels).map(|_| async {
            let client = KernelClient::launch(options.clone()).await;
            (client, began.elapsed())
        });
        let (mut clients, mut took) = (Vec::new(), Vec::new());
        for (client, elapsed) in join_all(launches).await {
            match client {
                Ok(client) => {
                    clients.push(client);
                    took.push(elapsed);
                }
                Err(error) => {
                    failed += 1;
                    println!("one did not come up, after {:.1} s: {error}", elapsed.as_secs_f64());
                }
            }
        }
        let executions = clients.iter().map(|client| async {
            let request = ExecuteRequest::new("print(6 * 7)");
            client.execute(&request).await?.finish(STARTUP).await
        });
        let wrong = join_all(executions).await.into_iter().filter(|executed| executed.is_err()).count();
        failed += wrong as u64;
        let ended = Instant::now();
        let count = clients.len();
        join_all(clients.into_iter().map(|client| client.shutdown(Duration::from_secs(30)))).await;
        println!(
            "round {round}: {count} of {kernels} kernels came up, the first after {:.1} s, the last after {:.1} s; {wrong} did \
             not execute; all ended within {:.1} s; memory of this process {} MB",
            took.iter().min().map_or(0.0, Duration::as_secs_f64),
            took.iter().max().map_or(0.0, Duration::as_secs_f64),
            ended.elapsed().as_secs_f64(),
            memory_bytes(std::process::id()) / 1_000_000
        );
    }
    println!("{failed} failed in all; {} MB before the first", before / 1_000_000);
    assert_eq!(failed, 0, "see above");
}
