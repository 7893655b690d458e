//! Which of many sockets may be able to go on.
//!
//! The gateway is one task over many sockets. Polling them all at every event
//! would cost as much as there are sockets, so each has a waker of its own: when
//! the runtime wakes it, its key is noted and the one task is woken. A socket is
//! noted once, however often it is woken before it is taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The keys of the sockets that were woken since they were last taken.
pub(super) struct ReadySet<K> {
    inner: Mutex<Inner<K>>,
}

struct Inner<K> {
    ready: Vec<Arc<KeyWaker<K>>>,
    task: Option<Waker>,
}

struct KeyWaker<K> {
    key: K,
    noted: AtomicBool,
    set: Arc<ReadySet<K>>,
}

impl<K: Copy + Send + Sync + 'static> ReadySet<K> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(ReadySet {
            inner: Mutex::new(Inner {
                ready: Vec::new(),
                task: None,
            }),
        })
    }

    /// A waker that notes `key`.
    pub(super) fn waker(self: &Arc<Self>, key: K) -> Waker {
        Arc::new(KeyWaker {
            key,
            noted: AtomicBool::new(false),
            set: self.clone(),
        })
        .into()
    }

    /// The task to wake from now on.
    pub(super) fn set_task(&self, task: &Waker) {
        let mut inner = self.lock();
        if !inner
            .task
            .as_ref()
            .is_some_and(|known| known.will_wake(task))
        {
            inner.task = Some(task.clone());
        }
    }

    /// Takes all keys that were noted, in the order in which they were.
    pub(super) fn take(&self, keys: &mut Vec<K>) {
        let mut inner = self.lock();
        keys.extend(inner.ready.drain(..).map(|waker| {
            // Cleared before the socket is polled: a later wake notes it again.
            waker.noted.store(false, Ordering::Release);
            waker.key
        }));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<K>> {
        // Nothing in here can panic half-way, so a poisoned lock is as good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Send + Sync + 'static> Wake for KeyWaker<K> {
    fn wake(self: Arc<Self>) {
        if self.noted.swap(true, Ordering::AcqRel) {
            return;
        }
        let set = self.set.clone();
        let task = {
            let mut inner = set.lock();
            inner.ready.push(self);
            inner.task.clone()
        };
        // Outside the lock: waking may run code of the runtime.
        if let Some(task) = task {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(std::sync::atomic::AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_key_is_noted_once_until_it_is_taken() {
        let set = ReadySet::new();
        let count = Arc::new(Count(Default::default()));
        set.set_task(&count.clone().into());
        let (one, two) = (set.waker(1), set.waker(2));
        two.wake_by_ref();
        one.wake_by_ref();
        two.wake_by_ref();
        let mut keys = Vec::new();
        set.take(&mut keys);
        assert_eq!(
            (&keys[..], count.0.load(Ordering::Relaxed)),
            (&[2, 1][..], 2)
        );
        two.wake();
        keys.clear();
        set.take(&mut keys);
        assert_eq!(keys, [2]);
    }
}
