//! TCP in between: a cable that can be cut, and listened to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use super::PATIENCE;

/// How much is carried at once, in bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// Is told what each connection carries towards the target, before it goes on. One is made for each
/// connection.
pub(crate) type Listener = Box<dyn FnMut(&[u8]) + Send>;

#[derive(Default)]
struct Plugs {
    /// Both ends of each open connection; cut ones stay in here, and open.
    open: BTreeMap<u64, [TcpStream; 2]>,
    next: u64,
    cut: bool,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    plugs: Mutex<Plugs>,
    news: Condvar,
}

/// Carries connections to a target. Dropping it closes them.
pub(crate) struct Cable {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Cable {
    /// Listens, and carries what arrives to `target` and back.
    pub(crate) fn to(target: SocketAddr) -> Self {
        Self::with(target, || Box::new(|_| {}))
    }

    /// The same, and everything that is said towards `target` is listened to.
    pub(crate) fn with(
        target: SocketAddr,
        mut listen: impl FnMut() -> Listener + Send + 'static,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let plugs = shared.clone();
        std::thread::spawn(move || {
            for near in socket.incoming().map_while(Result::ok) {
                if plugs.plugs.lock().expect("no panic in here").closed {
                    return;
                }
                let far = TcpStream::connect(target);
                if let Ok(far) = far {
                    plug(&plugs, near, far, listen());
                }
            }
        });
        Cable { address, shared }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes, in either direction, and nobody is told: no connection closes.
    pub(crate) fn cut(&self) {
        self.shared.plugs.lock().expect("as above").cut = true;
    }

    /// Waits until nothing is connected any more: whatever was said has been heard.
    pub(crate) fn wait_until_idle(&self) {
        let plugs = self.shared.plugs.lock().expect("as above");
        let busy = |plugs: &mut Plugs| !plugs.open.is_empty();
        let news = &self.shared.news;
        let waited = news
            .wait_timeout_while(plugs, PATIENCE, busy)
            .expect("as above");
        assert!(!waited.1.timed_out(), "a connection does not end");
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Ok(mut plugs) = self.shared.plugs.lock() {
            plugs.closed = true;
            for stream in plugs.open.values().flatten() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        // The thread that accepts looks up, and ends.
        let _ = TcpStream::connect(self.address);
    }
}

fn plug(shared: &Arc<Shared>, near: TcpStream, far: TcpStream, mut listen: Listener) {
    let ends = [&near, &far].map(|stream| {
        stream.set_nodelay(true).expect("a socket");
        stream.try_clone().expect("a descriptor")
    });
    let mut plugs = shared.plugs.lock().expect("as above");
    let id = plugs.next;
    plugs.next += 1;
    plugs.open.insert(id, ends);
    drop(plugs);
    let (back_from, back_to) = (far.try_clone(), near.try_clone());
    let there = {
        let shared = shared.clone();
        std::thread::spawn(move || {
            carry(&shared, near, far, |bytes| listen(bytes));
        })
    };
    let shared = shared.clone();
    std::thread::spawn(move || {
        if let (Ok(from), Ok(to)) = (back_from, back_to) {
            carry(&shared, from, to, |_| {});
        }
        let _ = there.join();
        let mut plugs = shared.plugs.lock().expect("as above");
        if !plugs.cut {
            plugs.open.remove(&id);
        }
        shared.news.notify_all();
    });
}

/// Carries one way until either end closes or the cable is cut.
fn carry(shared: &Shared, mut from: TcpStream, mut to: TcpStream, mut listen: impl FnMut(&[u8])) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk);
        if shared.plugs.lock().expect("as above").cut {
            return;
        }
        match read {
            Ok(len @ 1..) => {
                listen(&chunk[..len]);
                if to.write_all(&chunk[..len]).is_err() {
                    let _ = from.shutdown(Shutdown::Read);
                    return;
                }
            }
            _ => {
                // Both ways: a process that was killed says no more, and hears no more.
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}
