//! The keys, their values, and when they expire.
//!
//! Keys lie in a tree by (hash, key) with a fixed hash function. That gives
//! SCAN a cursor that is a number and stays valid whatever is added or removed
//! in between: every key that is there from the first call to the last is seen,
//! since its hash does not move. Nothing is ever rehashed, so no request pays
//! for the growth of a table.
//!
//! A key past its expiry is not there for any command: [`Keyspace::expire`] is
//! called before each. A second tree, by time, makes that cheap.

use crate::value::Value;
use alloc::{
    collections::{BTreeMap, BTreeSet, btree_map},
    rc::Rc,
    vec::Vec,
};
use core::ops::Bound;

/// Milliseconds since the beginning of 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);

/// A key in the order of the tree: by hash, then by bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HashedKey {
    hash: u64,
    bytes: Rc<[u8]>,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    expires: Option<UnixMillis>,
}

/// The data of the server.
#[derive(Debug)]
pub struct Keyspace {
    entries: BTreeMap<HashedKey, Entry>,
    by_expiry: BTreeSet<(UnixMillis, HashedKey)>,
    hash: fn(&[u8]) -> u64,
    /// An empty key: the lower end of a hash's keys, made without an allocation.
    empty: Rc<[u8]>,
}

impl Default for Keyspace {
    fn default() -> Self {
        Self::with_hash(fnv1a)
    }
}

impl Keyspace {
    fn with_hash(hash: fn(&[u8]) -> u64) -> Self {
        Keyspace {
            entries: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            hash,
            empty: Rc::from([]),
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many keys have an expiry.
    pub fn expiring(&self) -> usize {
        self.by_expiry.len()
    }

    /// When the next key expires.
    pub fn next_expiry(&self) -> Option<UnixMillis> {
        self.by_expiry.first().map(|(at, _)| *at)
    }

    /// Removes the keys whose time has come, and says how many.
    pub fn expire(&mut self, now: UnixMillis) -> u64 {
        let mut expired = 0;
        while self.next_expiry().is_some_and(|at| at <= now) {
            let (_, key) = self.by_expiry.pop_first().expect("there is a next one");
            self.entries.remove(&key);
            expired += 1;
        }
        expired
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_expiry.clear();
    }

    /// Whether `key` is there.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.entry(key).is_some()
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        self.entry(key).map(|(_, entry)| &entry.value)
    }

    /// The value of `key`, for changing.
    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Value> {
        self.entry_mut(key).map(|(_, entry)| &mut entry.value)
    }

    /// The value of `key`, which is `empty` at first if the key is not there.
    pub fn get_or_insert(&mut self, key: &[u8], empty: Value) -> &mut Value {
        // Two look-ups: the borrow checker does not see that the first has ended.
        if self.contains(key) {
            return self.get_mut(key).expect("just seen");
        }
        let key = self.owned(key);
        match self.entries.entry(key) {
            btree_map::Entry::Vacant(vacant) => {
                &mut vacant
                    .insert(Entry {
                        value: empty,
                        expires: None,
                    })
                    .value
            }
            btree_map::Entry::Occupied(_) => unreachable!("just not seen"),
        }
    }

    /// Sets the value of `key`. An expiry that it had stays.
    pub fn set(&mut self, key: &[u8], value: Value) {
        match self.entry_mut(key) {
            Some((_, entry)) => entry.value = value,
            None => {
                let key = self.owned(key);
                self.entries.insert(
                    key,
                    Entry {
                        value,
                        expires: None,
                    },
                );
            }
        }
    }

    /// Removes `key` and gives its value.
    pub fn remove(&mut self, key: &[u8]) -> Option<Value> {
        let key = self.entry(key)?.0.clone();
        let entry = self.entries.remove(&key)?;
        if let Some(at) = entry.expires {
            self.by_expiry.remove(&(at, key));
        }
        Some(entry.value)
    }

    /// When `key` expires: `None` if it is not there, `Some(None)` if never.
    pub fn expiry(&self, key: &[u8]) -> Option<Option<UnixMillis>> {
        self.entry(key).map(|(_, entry)| entry.expires)
    }

    /// Sets or removes the expiry of `key`, if it is there.
    pub fn set_expiry(&mut self, key: &[u8], expires: Option<UnixMillis>) {
        let Some((key, entry)) = self.entry_mut(key) else {
            return;
        };
        let key = key.clone();
        let before = core::mem::replace(&mut entry.expires, expires);
        if let Some(at) = before {
            self.by_expiry.remove(&(at, key.clone()));
        }
        if let Some(at) = expires {
            self.by_expiry.insert((at, key));
        }
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Value)> {
        self.entries
            .iter()
            .map(|(key, entry)| (&*key.bytes, &entry.value))
    }

    /// A stretch of the keys from `cursor` on (0 = from the first): about `count`
    /// of them, and where to go on, 0 at the end.
    ///
    /// Keys of the same hash are never parted, so it can be a few more.
    pub fn scan(&self, cursor: u64, count: usize) -> Stretch<'_> {
        let from = HashedKey {
            hash: cursor,
            bytes: Rc::clone(&self.empty),
        };
        let mut stretch = Stretch {
            keys: Vec::new(),
            next: 0,
        };
        let mut last = None;
        for (key, entry) in self.entries.range(from..) {
            if stretch.keys.len() >= count && last != Some(key.hash) {
                stretch.next = key.hash;
                break;
            }
            last = Some(key.hash);
            stretch.keys.push((&*key.bytes, &entry.value));
        }
        stretch
    }

    fn owned(&self, key: &[u8]) -> HashedKey {
        HashedKey {
            hash: (self.hash)(key),
            bytes: Rc::from(key),
        }
    }

    fn entry(&self, key: &[u8]) -> Option<(&HashedKey, &Entry)> {
        let hash = (self.hash)(key);
        let from = HashedKey {
            hash,
            bytes: Rc::clone(&self.empty),
        };
        self.entries
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|(hashed, _)| hashed.hash == hash)
            .find(|(hashed, _)| *hashed.bytes == *key)
    }

    fn entry_mut(&mut self, key: &[u8]) -> Option<(&HashedKey, &mut Entry)> {
        let hash = (self.hash)(key);
        let from = HashedKey {
            hash,
            bytes: Rc::clone(&self.empty),
        };
        self.entries
            .range_mut((Bound::Included(from), Bound::Unbounded))
            .take_while(|(hashed, _)| hashed.hash == hash)
            .find(|(hashed, _)| *hashed.bytes == *key)
    }
}

/// What [`Keyspace::scan`] found.
#[derive(Debug)]
pub struct Stretch<'a> {
    /// Keys with their values.
    pub keys: Vec<(&'a [u8], &'a Value)>,
    /// The cursor of the next stretch; 0 if this was the last.
    pub next: u64,
}

/// FNV-1a, 64 bit, finished so that all bits take part in the order. Never zero,
/// which is the cursor's beginning and end.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    hash ^= hash >> 32;
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeSet, format, string::String};

    fn value(text: &str) -> Value {
        Value::String(text.as_bytes().to_vec().into())
    }

    #[test]
    fn set_get_remove() {
        let mut keys = Keyspace::default();
        keys.set(b"a", value("1"));
        keys.set(b"", value("empty key"));
        assert_eq!(keys.get(b"a"), Some(&value("1")));
        assert_eq!(keys.get(b""), Some(&value("empty key")));
        assert_eq!(keys.get(b"b"), None);
        assert_eq!(keys.remove(b"a"), Some(value("1")));
        assert_eq!(keys.remove(b"a"), None);
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn keys_of_one_hash_are_kept_apart_and_scanned_together() {
        let mut keys = Keyspace::with_hash(|_| 7);
        for name in ["a", "b", "c"] {
            keys.set(name.as_bytes(), value(name));
        }
        for name in ["a", "b", "c"] {
            assert_eq!(keys.get(name.as_bytes()), Some(&value(name)));
        }
        let stretch = keys.scan(0, 1);
        assert_eq!((stretch.keys.len(), stretch.next), (3, 0));
        assert_eq!(keys.remove(b"b"), Some(value("b")));
        assert!(!keys.contains(b"b") && keys.contains(b"a") && keys.contains(b"c"));
    }

    #[test]
    fn a_key_is_gone_when_its_time_has_come() {
        let mut keys = Keyspace::default();
        keys.set(b"a", value("1"));
        keys.set(b"b", value("2"));
        keys.set_expiry(b"a", Some(UnixMillis(100)));
        keys.set_expiry(b"b", Some(UnixMillis(200)));
        assert_eq!(keys.next_expiry(), Some(UnixMillis(100)));
        assert_eq!(keys.expire(UnixMillis(99)), 0);
        assert_eq!(keys.expire(UnixMillis(100)), 1);
        assert!(!keys.contains(b"a"));
        keys.set_expiry(b"b", None);
        assert_eq!((keys.next_expiry(), keys.expiring()), (None, 0));
        assert_eq!(keys.expire(UnixMillis(1_000)), 0);
        assert!(keys.contains(b"b"));
    }

    #[test]
    fn removing_a_key_removes_its_expiry() {
        let mut keys = Keyspace::default();
        keys.set(b"a", value("1"));
        keys.set_expiry(b"a", Some(UnixMillis(100)));
        keys.remove(b"a");
        keys.set(b"a", value("2"));
        assert_eq!(keys.expire(UnixMillis(1_000)), 0);
        assert!(keys.contains(b"a"));
    }

    #[test]
    fn scan_sees_every_key_that_stays_whatever_comes_and_goes() {
        let mut keys = Keyspace::default();
        for i in 0..500 {
            keys.set(format!("stays:{i}").as_bytes(), value("x"));
            keys.set(format!("goes:{i}").as_bytes(), value("x"));
        }
        let mut seen = BTreeSet::new();
        let mut cursor = 0;
        for step in 0.. {
            let stretch = keys.scan(cursor, 10);
            let names = stretch
                .keys
                .iter()
                .map(|(key, _)| key.to_vec())
                .collect::<Vec<_>>();
            cursor = stretch.next;
            seen.extend(names);
            keys.remove(format!("goes:{step}").as_bytes());
            keys.set(format!("comes:{step}").as_bytes(), value("x"));
            if cursor == 0 {
                break;
            }
        }
        let stays: Vec<String> = (0..500).map(|i| format!("stays:{i}")).collect();
        assert!(stays.iter().all(|key| seen.contains(key.as_bytes())));
    }

    #[test]
    fn the_order_of_keys_does_not_depend_on_how_they_came() {
        let mut one = Keyspace::default();
        let mut other = Keyspace::default();
        let names = ["x", "y", "z", "key:1", "key:2"];
        names
            .iter()
            .for_each(|name| one.set(name.as_bytes(), value("v")));
        names
            .iter()
            .rev()
            .for_each(|name| other.set(name.as_bytes(), value("v")));
        assert!(one.iter().eq(other.iter()));
    }
}
