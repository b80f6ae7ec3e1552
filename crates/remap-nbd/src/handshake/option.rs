//! Decoding the data of options: names, information requests, context queries.
//!
//! Invariant: nothing is allocated from a length or a count that the bytes do not back up.

use crate::proto::STRING_MAX;

/// Why an option's data was refused; both are told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadOption {
    /// The lengths inside do not fit the option.
    Malformed(&'static str),
    /// A string is longer than the protocol allows.
    TooBig(&'static str),
}

/// Reads big-endian fields from the front of a slice.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], BadOption> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(BadOption::Malformed(what))?;
        self.0 = tail;
        Ok(head)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, BadOption> {
        self.take(2, what).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, BadOption> {
        self.take(4, what).map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&mut self, what: &'static str) -> Result<&'a [u8], BadOption> {
        let len = usize::try_from(self.u32(what)?).map_err(|_| BadOption::TooBig(what))?;
        if len > self.0.len() {
            return Err(BadOption::Malformed(what));
        }
        if len > STRING_MAX {
            return Err(BadOption::TooBig("a string is longer than 4096 bytes"));
        }
        self.take(len, what)
    }

    fn end(&self, what: &'static str) -> Result<(), BadOption> {
        if self.0.is_empty() { Ok(()) } else { Err(BadOption::Malformed(what)) }
    }
}

/// The data of INFO and GO.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InfoRequest<'a> {
    pub(super) name: &'a [u8],
    /// Information types wanted.
    pub(super) wanted: Vec<u16>,
}

impl<'a> InfoRequest<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, BadOption> {
        let mut fields = Fields(bytes);
        let name = fields.string("the name does not fit the option")?;
        let count = usize::from(fields.u16("the count of information requests is cut off")?);
        if fields.0.len() != count * 2 {
            return Err(BadOption::Malformed("the count of information requests does not fit the option"));
        }
        let wanted = fields.0.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        Ok(Self { name, wanted })
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContextQuery<'a> {
    pub(super) name: &'a [u8],
    pub(super) queries: Vec<&'a [u8]>,
}

impl<'a> ContextQuery<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, BadOption> {
        let mut fields = Fields(bytes);
        let name = fields.string("the name does not fit the option")?;
        let count = fields.u32("the count of queries is cut off")?;
        // A query takes at least its length field, so the option's own length bounds the count.
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(fields.string("a query does not fit the option")?);
        }
        fields.end("bytes are left after the last query")?;
        Ok(Self { name, queries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name_len: u32, name: &[u8], count: u16, wanted: &[u16]) -> Vec<u8> {
        let mut bytes = name_len.to_be_bytes().to_vec();
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&count.to_be_bytes());
        bytes.extend(wanted.iter().flat_map(|w| w.to_be_bytes()));
        bytes
    }

    #[test]
    fn information_requests() {
        let bytes = info(3, b"vol", 2, &[0, 3]);
        assert_eq!(InfoRequest::parse(&bytes), Ok(InfoRequest { name: b"vol", wanted: vec![0, 3] }));
        for cut in 0..bytes.len() {
            assert!(InfoRequest::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(matches!(InfoRequest::parse(&info(3, b"vol", 3, &[0, 3])), Err(BadOption::Malformed(_))));
        assert!(matches!(InfoRequest::parse(&info(3, b"vol", 1, &[0, 3])), Err(BadOption::Malformed(_))));
        assert!(matches!(InfoRequest::parse(&info(u32::MAX, b"vol", 0, &[])), Err(BadOption::Malformed(_))));
        let long = vec![b'x'; 4097];
        assert!(matches!(InfoRequest::parse(&info(4097, &long, 0, &[])), Err(BadOption::TooBig(_))));
    }

    #[test]
    fn context_queries() {
        let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2];
        bytes.extend_from_slice(b"a:");
        bytes.extend_from_slice(&[0, 0, 0, 0]);
        let expected = ContextQuery { name: b"", queries: vec![b"a:", b""] };
        assert_eq!(ContextQuery::parse(&bytes), Ok(expected));
        for cut in 0..bytes.len() {
            assert!(ContextQuery::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        bytes.push(0);
        assert!(ContextQuery::parse(&bytes).is_err());
    }

    #[test]
    fn a_huge_count_of_queries_is_no_allocation() {
        let bytes = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(ContextQuery::parse(&bytes), Err(BadOption::Malformed(_))));
    }
}
