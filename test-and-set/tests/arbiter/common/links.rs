//! A network between servers whose links can be cut and mended.
//!
//! Each server is reached through a proxy that reads the hello to learn who dials.
//! A cut link delivers nothing, and does not say so: what was sent meanwhile arrives
//! when it is mended, as it does on a network that lost and repeated it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use test_and_set::wire::{self, Hello, MAX_HELLO_BYTES, WireError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// From whom to whom nothing goes.
type Cuts = BTreeSet<(u64, u64)>;

#[derive(Clone, Default)]
pub(crate) struct Links {
    cuts: Arc<watch::Sender<Cuts>>,
}

impl Links {
    /// Cuts servers off from all others, in both directions.
    pub(crate) fn isolate(&self, alone: &[u64], others: &[u64]) {
        self.cuts.send_modify(|cuts| {
            for a in alone {
                for b in others {
                    cuts.insert((*a, *b));
                    cuts.insert((*b, *a));
                }
            }
        });
    }

    /// Mends all links.
    pub(crate) fn mend(&self) {
        self.cuts.send_modify(Cuts::clear);
    }

    /// Lets server `id`, which listens at `server`, be reached at `at`.
    pub(crate) fn proxy(&self, id: u64, at: SocketAddr, server: SocketAddr) {
        let cuts = self.cuts.subscribe();
        let listener = std::net::TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        tokio::spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(stream, id, server, cuts.clone()));
            }
        });
    }
}

async fn forward(
    mut near: TcpStream,
    id: u64,
    server: SocketAddr,
    cuts: watch::Receiver<Cuts>,
) -> Result<(), WireError> {
    wire::read_preamble(&mut near).await?;
    let hello: Hello = wire::read_frame(&mut near, MAX_HELLO_BYTES).await?;
    let from = match &hello {
        Hello::Client { .. } => 0,
        Hello::Peer { from, .. } => from.server.0,
    };
    wait(&mut cuts.clone(), (from, id)).await;
    let mut far = TcpStream::connect(server).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    wire::write_preamble(&mut far).await?;
    wire::write_frame(&mut far, &hello).await?;
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = tokio::spawn(pass(near_read, far_write, cuts.clone(), (from, id)));
    pass(far_read, near_write, cuts, (id, from)).await;
    there.abort();
    Ok(())
}

async fn wait(cuts: &mut watch::Receiver<Cuts>, link: (u64, u64)) {
    // An error says that the test is over.
    let _ = cuts.wait_for(|cuts| !cuts.contains(&link)).await;
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cuts: watch::Receiver<Cuts>,
    link: (u64, u64),
) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        wait(&mut cuts, link).await;
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
