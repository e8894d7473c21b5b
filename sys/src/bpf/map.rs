//! Maps: hash tables that programs and this process share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Kind, NAME, by_id, call, describe, descriptor, ids, invalid, name, owned, text};

const CREATE: libc::c_int = 0;
const LOOKUP: libc::c_int = 1;
const UPDATE: libc::c_int = 2;
const DELETE: libc::c_int = 3;
const NEXT_KEY: libc::c_int = 4;
const UPDATE_BATCH: libc::c_int = 26;
const DELETE_BATCH: libc::c_int = 27;
const NO_PREALLOC: u32 = 1;
/// The kernel's own, which no header for programs has.
const ENOTSUPP: i32 = 524;

/// How a map is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// A hash table whose entries are allocated one by one.
    Hash = 1,
    /// A hash table that gives up what was used least recently when it is full.
    LruHash = 9,
}

/// What a map is made from; two maps with the same layout are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// At most 15 bytes.
    pub name: String,
    /// How it is kept.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Most entries.
    pub entries: u32,
}

/// A map held by a descriptor.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    layout: Layout,
}

#[repr(C, align(8))]
struct CreateAttr {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    numa: u32,
    name: [u8; NAME],
    ifindex: u32,
}

#[repr(C, align(8))]
struct ElementAttr {
    map: u32,
    _hole: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C, align(8))]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// The first fields of `struct bpf_map_info`.
#[repr(C, align(8))]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    name: [u8; NAME],
}

impl Layout {
    fn flags(&self) -> u32 {
        match self.kind {
            MapKind::Hash => NO_PREALLOC,
            MapKind::LruHash => 0,
        }
    }
}

impl Map {
    /// Makes an empty map.
    pub fn create(layout: Layout) -> io::Result<Self> {
        let mut attr = CreateAttr {
            kind: layout.kind as u32,
            key: layout.key,
            value: layout.value,
            entries: layout.entries,
            flags: layout.flags(),
            inner: 0,
            numa: 0,
            name: name(&layout.name),
            ifindex: 0,
        };
        // SAFETY: `attr` holds no pointer, and the command answers with a new descriptor.
        let fd = unsafe { call(CREATE, &mut attr).and_then(|fd| owned(fd)) }?;
        Ok(Self { fd, layout })
    }

    /// The map of this identifier; `None` if there is none, or it is of a kind that is not made here.
    pub fn by_id(id: u32) -> io::Result<Option<Self>> {
        let Some(fd) = by_id(Kind::Map, id)? else {
            return Ok(None);
        };
        let info = info(&fd)?;
        let kind = match info.kind {
            1 => MapKind::Hash,
            9 => MapKind::LruHash,
            _ => return Ok(None), // the values of some kinds are larger than they say
        };
        let layout = Layout {
            name: text(&info.name),
            kind,
            key: info.key,
            value: info.value,
            entries: info.entries,
        };
        Ok((info.flags == layout.flags()).then_some(Self { fd, layout }))
    }

    /// How it was made.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its identifier.
    pub fn id(&self) -> io::Result<u32> {
        Ok(info(&self.fd)?.id)
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.check(key, self.layout.key)?;
        let mut value = vec![0; self.layout.value as usize];
        let mut attr = self.element(key, value.as_mut_ptr());
        // SAFETY: `key` and `value` are as long as the map's keys and values are, and live across the call.
        absent(unsafe { call(LOOKUP, &mut attr) }).map(|found| found.then_some(value))
    }

    /// Sets the value of a key, new or not.
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, self.layout.key)?;
        self.check(value, self.layout.value)?;
        let mut attr = self.element(key, value.as_ptr().cast_mut());
        // SAFETY: both are as long as the map's keys and values are, live across the call, and are only read by it.
        unsafe { call(UPDATE, &mut attr) }.map(drop)
    }

    /// Removes a key; whether it was there.
    pub fn remove(&self, key: &[u8]) -> io::Result<bool> {
        self.check(key, self.layout.key)?;
        let mut attr = self.element(key, std::ptr::null_mut());
        // SAFETY: `key` is as long as the map's keys are, lives across the call, and is only read by it.
        absent(unsafe { call(DELETE, &mut attr) })
    }

    /// Sets the values of many keys, in one system call where the kernel has it (5.6). Keys and values one after another.
    pub fn set_all(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        let count = self.count(keys)?;
        if values.len() != count * self.layout.value as usize {
            return Err(invalid());
        }
        if count < 2 {
            return if count == 0 {
                Ok(())
            } else {
                self.set(keys, values)
            };
        }
        let mut attr = self.batch(keys, values.as_ptr(), count);
        // SAFETY: `keys` and `values` hold `count` of each in the map's sizes, live across the call, and are only read.
        match unsafe { call(UPDATE_BATCH, &mut attr) } {
            Err(error) if unknown(&error) => {
                let values = values.chunks_exact(self.layout.value as usize);
                self.keys(keys).zip(values).try_for_each(|(k, v)| self.set(k, v))
            }
            done => done.map(drop),
        }
    }

    /// Removes many keys that are there.
    pub fn remove_all(&self, keys: &[u8]) -> io::Result<()> {
        let count = self.count(keys)?;
        if count < 2 {
            return if count == 0 {
                Ok(())
            } else {
                self.remove(keys).map(drop)
            };
        }
        let mut attr = self.batch(keys, std::ptr::null(), count);
        // SAFETY: `keys` holds `count` keys of the map's size, lives across the call, and is only read.
        match unsafe { call(DELETE_BATCH, &mut attr) } {
            // Where one is missing the batch ends; the others are to go all the same.
            Err(error) if unknown(&error) || error.raw_os_error() == Some(libc::ENOENT) => {
                self.keys(keys).try_for_each(|key| self.remove(key).map(drop))
            }
            done => done.map(drop),
        }
    }

    /// All entries. Those that come or go meanwhile may be missing.
    pub fn entries(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        let mut key: Option<Vec<u8>> = None;
        while let Some(next) = self.next_key(key.as_deref())? {
            found.extend(self.get(&next)?.map(|value| (next.clone(), value)));
            key = Some(next);
        }
        Ok(found)
    }

    fn next_key(&self, after: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        let mut next = vec![0; self.layout.key as usize];
        let mut attr = self.element(after.unwrap_or_default(), next.as_mut_ptr());
        if after.is_none() {
            attr.key = 0;
        }
        // SAFETY: a key that is given came from this function; `next` is as long as the map's keys are.
        absent(unsafe { call(NEXT_KEY, &mut attr) }).map(|found| found.then_some(next))
    }

    fn element(&self, key: &[u8], value: *mut u8) -> ElementAttr {
        ElementAttr {
            map: descriptor(self),
            _hole: 0,
            key: key.as_ptr().expose_provenance() as u64,
            value: value.expose_provenance() as u64,
            flags: 0,
        }
    }

    fn batch(&self, keys: &[u8], values: *const u8, count: usize) -> BatchAttr {
        BatchAttr {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr().expose_provenance() as u64,
            values: values.expose_provenance() as u64,
            count: count as u32,
            map: descriptor(self),
            element_flags: 0,
            flags: 0,
        }
    }

    fn keys<'a>(&self, keys: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        keys.chunks_exact(self.layout.key as usize)
    }

    fn count(&self, keys: &[u8]) -> io::Result<usize> {
        let size = self.layout.key as usize;
        if keys.len().is_multiple_of(size) {
            Ok(keys.len() / size)
        } else {
            Err(invalid())
        }
    }

    fn check(&self, bytes: &[u8], size: u32) -> io::Result<()> {
        if bytes.len() == size as usize {
            Ok(())
        } else {
            Err(invalid())
        }
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Names of all maps on this machine, with their identifiers.
pub fn names() -> io::Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for id in ids(Kind::Map)? {
        if let Some(fd) = by_id(Kind::Map, id)? {
            found.push((id, text(&info(&fd)?.name)));
        }
    }
    Ok(found)
}

fn info(map: impl AsFd) -> io::Result<Info> {
    let mut info = Info::default();
    // SAFETY: `Info` is the beginning of `struct bpf_map_info`; it is plain numbers and holds no address.
    unsafe { describe(map, &mut info) }?;
    Ok(info)
}

fn absent(answer: io::Result<libc::c_long>) -> io::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The kernel has no such command, or not for this kind of map.
fn unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | ENOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(kind: MapKind) -> Map {
        let layout = Layout {
            name: "shoal_test".into(),
            kind,
            key: 4,
            value: 8,
            entries: 64,
        };
        Map::create(layout).expect("tests of sys need root")
    }

    #[test]
    fn layouts_are_the_kernels() {
        assert_eq!(size_of::<CreateAttr>(), 48);
        assert_eq!(size_of::<ElementAttr>(), 32);
        assert_eq!(size_of::<BatchAttr>(), 56);
    }

    #[test]
    fn entries_come_and_go_one_by_one_and_many_at_once() {
        for map in [map(MapKind::Hash), map(MapKind::LruHash)] {
            assert_eq!(map.get(&[1; 4]).unwrap(), None);
            map.set(&[1; 4], &[7; 8]).unwrap();
            assert_eq!(map.get(&[1; 4]).unwrap(), Some(vec![7; 8]));
            assert!(map.remove(&[1; 4]).unwrap());
            assert!(!map.remove(&[1; 4]).unwrap());
            let keys: Vec<u8> = (0..10u32).flat_map(u32::to_ne_bytes).collect();
            let values: Vec<u8> = (0..10u64).flat_map(u64::to_ne_bytes).collect();
            map.set_all(&keys, &values).unwrap();
            assert_eq!(map.entries().unwrap().len(), 10);
            map.remove(&3u32.to_ne_bytes()).unwrap();
            map.remove_all(&keys).unwrap();
            assert_eq!(map.entries().unwrap(), []);
            map.set_all(&[], &[]).unwrap();
        }
    }

    #[test]
    fn wrong_sizes_never_reach_the_kernel() {
        let map = map(MapKind::Hash);
        for refused in [
            map.set(&[0; 3], &[0; 8]),
            map.set(&[0; 4], &[0; 7]),
            map.set_all(&[0; 9], &[0; 16]),
            map.set_all(&[0; 8], &[0; 8]),
            map.get(&[]).map(drop),
        ] {
            assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn an_identifier_leads_back_to_the_map() {
        let map = map(MapKind::Hash);
        let id = map.id().unwrap();
        map.set(&[1; 4], &[2; 8]).unwrap();
        let again = Map::by_id(id).unwrap().unwrap();
        assert_eq!(again.layout(), map.layout());
        assert_eq!(again.get(&[1; 4]).unwrap(), Some(vec![2; 8]));
        assert!(names().unwrap().contains(&(id, "shoal_test".into())));
    }
}
