//! Figures, not tests: `cargo test --release -p vmm --lib net::tests::measure --
//! --ignored --nocapture`.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_guest::Running;

/// The gateway on a thread of its own, and the guest and clients on another, as
/// processes would be. Also returns the CPU time that the gateway took.
fn apart<T>(ack_delay: Duration, measure: impl AsyncFnOnce(&Running) -> T) -> (T, Duration) {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let gateway_runtime = runtime();
    let gateway = gateway_runtime.block_on(Running::start(|config| config.ack_delay = ack_delay));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ = gateway_runtime.block_on(stopped);
        let times = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux host");
        let on_cpu = times.split(' ').next().and_then(|ns| ns.parse().ok());
        Duration::from_nanos(on_cpu.expect("the time on a CPU"))
    });
    let measured = runtime().block_on(measure(&gateway));
    drop(stop);
    (
        measured,
        thread.join().expect("the gateway's thread ends well"),
    )
}

async fn round_trips(address: std::net::SocketAddr, until: Instant) -> Vec<Duration> {
    let mut client = TcpStream::connect(address)
        .await
        .expect("the gateway listens");
    client.set_nodelay(true).expect("an option");
    let mut waits = Vec::new();
    let mut bytes = [7; 64];
    while Instant::now() < until {
        let began = Instant::now();
        client.write_all(&bytes).await.expect("taken");
        client.read_exact(&mut bytes).await.expect("answered");
        waits.push(began.elapsed());
    }
    waits
}

#[test]
#[ignore = "prints figures"]
fn latency_and_throughput_of_the_echo() {
    let delay = Duration::from_millis(5);
    let none = Duration::ZERO;
    for (clients, ack_delay) in [
        (1, none),
        (1, delay),
        (10, none),
        (50, none),
        (50, delay),
        (256, none),
    ] {
        let ((mut waits, inputs), cpu) = apart(ack_delay, async |gateway| {
            let _guest = gateway.guest_with_backlog(clients).await;
            let until = Instant::now() + Duration::from_secs(3);
            let all: Vec<_> = (0..clients)
                .map(|_| tokio::spawn(round_trips(gateway.echo, until)))
                .collect();
            let mut waits = Vec::new();
            for client in all {
                waits.extend(client.await.expect("served"));
            }
            (waits, gateway.stats().await.frames_to_guests)
        });
        waits.sort();
        let at = |share: f64| waits[(waits.len() as f64 * share) as usize];
        println!(
            "{clients:4} clients, ACKs after {ack_delay:?}: {:6} round trips/s, median {:?}, p99 {:?}, \
             gateway's CPU {:?} and {:.2} frames to the guest each",
            waits.len() / 3,
            at(0.5),
            at(0.99),
            cpu / waits.len() as u32,
            inputs as f64 / waits.len() as f64,
        );
    }
    let (bytes_per_s, _) = apart(none, async |gateway| {
        let _guest = gateway.guest().await;
        let client = TcpStream::connect(gateway.echo)
            .await
            .expect("the gateway listens");
        let (mut reader, mut writer) = client.into_split();
        let upload =
            tokio::spawn(async move { while writer.write_all(&[1; 65536]).await.is_ok() {} });
        let began = Instant::now();
        let mut received = 0;
        let mut bytes = vec![0; 1 << 16];
        while began.elapsed() < Duration::from_secs(3) {
            received += reader.read(&mut bytes).await.expect("echoed");
        }
        upload.abort();
        received as f64 / began.elapsed().as_secs_f64()
    });
    println!("one stream: {:.0} MB/s each way", bytes_per_s / 1e6);
}
