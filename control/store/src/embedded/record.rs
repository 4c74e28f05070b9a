//! How one write is written to disk.
//!
//! `version (1) | kind (1) | created revision (8, little endian) | key length (4) | key | value`

use std::sync::Arc;

use bytes::Bytes;

use crate::types::{Entry, Event, Revision};

const VERSION: u8 = 1;
const PUT: u8 = 0;
const DELETE: u8 = 1;
const HEADER: usize = 1 + 1 + 8 + 4;

/// A write as it is read back: the entry that it left, or the key that it deleted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Put(Arc<Entry>),
    Delete(Arc<str>),
}

pub(super) fn encode(event: &Event) -> Vec<u8> {
    let (kind, created, value) = match &event.current {
        Some(entry) => (PUT, entry.created, entry.value.as_ref()),
        None => (DELETE, 0, &[][..]),
    };
    let mut record = Vec::with_capacity(HEADER + event.key.len() + value.len());
    record.extend([VERSION, kind]);
    record.extend(created.to_le_bytes());
    // Keys are far below 4 GiB: the engine itself takes no pair above 3 GiB.
    record.extend((event.key.len() as u32).to_le_bytes());
    record.extend(event.key.as_bytes());
    record.extend(value);
    record
}

pub(super) fn decode(revision: Revision, record: &[u8]) -> Result<Record, &'static str> {
    let (header, rest) = record.split_at_checked(HEADER).ok_or("is too short")?;
    let (marks, numbers) = header.split_at(2);
    let (created, key_length) = numbers.split_at(8);
    if marks[0] != VERSION {
        return Err("has an unknown version; a newer release may have written it");
    }
    let created = Revision::from_le_bytes(created.try_into().map_err(|_| "is too short")?);
    let key_length = u32::from_le_bytes(key_length.try_into().map_err(|_| "is too short")?) as usize;
    let (key, value) = rest.split_at_checked(key_length).ok_or("is shorter than its key")?;
    let key: Arc<str> = std::str::from_utf8(key).map_err(|_| "has a key that is not text")?.into();
    match marks[1] {
        PUT => {
            Ok(Record::Put(Arc::new(Entry { key, value: Bytes::copy_from_slice(value), revision, created })))
        }
        DELETE => Ok(Record::Delete(key)),
        _ => Err("is of an unknown kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put() -> Arc<Entry> {
        Arc::new(Entry { key: "/a/b".into(), value: Bytes::from_static(b"{}"), revision: 9, created: 7 })
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let put = put();
        let event = Event { revision: 9, key: put.key.clone(), current: Some(put.clone()), previous: None };
        assert_eq!(decode(9, &encode(&event)), Ok(Record::Put(put.clone())));
        let event = Event { revision: 10, key: put.key.clone(), current: None, previous: Some(put.clone()) };
        assert_eq!(decode(10, &encode(&event)), Ok(Record::Delete(put.key.clone())));
    }

    #[test]
    fn refuses_every_truncation_and_foreign_versions() {
        let put = put();
        let event = Event { revision: 9, key: put.key.clone(), current: Some(put.clone()), previous: None };
        let mut record = encode(&event);
        for end in 0..HEADER + put.key.len() {
            assert!(decode(9, &record[..end]).is_err(), "{end} bytes are no record");
        }
        record[0] = 2;
        assert!(decode(9, &record).unwrap_err().contains("version"));
        record[0] = VERSION;
        record[1] = 7;
        assert!(decode(9, &record).unwrap_err().contains("kind"));
    }
}
