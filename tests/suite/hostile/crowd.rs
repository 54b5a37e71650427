//! Many at once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kernelbridge::client::{KernelClient, LaunchOptions};

use super::Rig;

#[tokio::test]
async fn fifty_kernels_start_at_the_same_time() {
    let Some(rig) = Rig::new() else { return };
    let options = LaunchOptions { startup: Duration::from_secs(180), ..rig.options("good") };
    let began = Instant::now();
    let launches = (0..50).map(|_| KernelClient::launch(options.clone()));
    let clients: Vec<_> = join_all(launches).await.into_iter().collect::<Result<_, _>>().expect("they all come up");
    println!("50 kernels after {:?}", began.elapsed());
    for client in &clients {
        client.kernel_info(options.startup).await.expect("it answers");
        assert_eq!(client.counters().odd_messages(), 0);
    }
    join_all(clients.into_iter().map(|client| client.shutdown(Duration::from_secs(10)))).await;
    rig.assert_nothing_left();
}
