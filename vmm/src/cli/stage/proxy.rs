//! A TCP proxy that can go silent: the network between the two nodes, with a cable to cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How much is carried at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// A proxy; the cable is pulled out with it.
#[derive(Debug)]
pub(in crate::cli) struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens, and carries what arrives to `target` and back.
    pub(in crate::cli) async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (cut, is_cut) = watch::channel(false);
        Ok(Proxy {
            address,
            cut,
            task: tokio::spawn(serve(listener, target, is_cut)),
        })
    }

    /// Where it listens.
    pub(in crate::cli) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes, in either direction, and nobody is told: no connection closes.
    pub(in crate::cli) fn cut(&self) {
        self.cut.send_replace(true);
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, cut: watch::Receiver<bool>) {
    // Aborted with this task.
    let mut cables = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        cables.spawn(carry(near, target, cut.clone()));
    }
}

async fn carry(near: TcpStream, target: SocketAddr, cut: watch::Receiver<bool>) {
    let dial = async {
        let far = TcpStream::connect(target).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        io::Result::Ok(far)
    };
    let mut silence = cut.clone();
    let far = tokio::select! {
        biased;
        () = silent(&mut silence) => return std::future::pending().await,
        far = dial => far,
    };
    let Ok(far) = far else {
        return;
    };
    let (near, far) = (near.into_split(), far.into_split());
    tokio::join!(
        one_way(near.0, far.1, cut.clone()),
        one_way(far.0, near.1, cut)
    );
}

/// Waits for the cut. Its caller then waits for ever, so that what it holds stays open.
async fn silent(cut: &mut watch::Receiver<bool>) {
    let _ = cut.wait_for(|cut| *cut).await;
}

async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            () = silent(&mut cut) => return std::future::pending().await,
            read = from.read(&mut chunk) => read,
        };
        match read {
            Ok(len) if len > 0 => {
                if to.write_all(&chunk[..len]).await.is_err() {
                    return;
                }
            }
            _ => {
                let _ = to.shutdown().await;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn it_carries_both_ways_until_it_is_cut_and_then_closes_nothing() {
        let echo = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let target = echo.local_addr().expect("bound");
        tokio::spawn(async move {
            let (stream, _) = echo.accept().await.expect("the proxy");
            let (mut from, mut to) = stream.into_split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        let proxy = Proxy::start(target).await.expect("a proxy");
        let mut client = TcpStream::connect(proxy.address()).await.expect("connects");
        let mut back = [0; 4];
        client.write_all(b"ping").await.expect("sent");
        client.read_exact(&mut back).await.expect("echoed");
        assert_eq!(&back, b"ping");

        proxy.cut();
        client.write_all(b"lost").await.expect("sent");
        let nothing = timeout(Duration::from_millis(100), client.read(&mut back)).await;
        assert!(nothing.is_err(), "neither data nor an end: {nothing:?}");
    }
}
