//! The archive that a kernel unpacks as its first file system: "newc", as cpio writes it.
//!
//! Invariant: a path is written once, the first time; the folders above it come before it. Archives may follow one another in a file.

use std::collections::BTreeSet;
use std::io::{self, Write};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Writes an archive.
pub(super) struct Archive<W> {
    to: W,
    paths: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(super) fn into(to: W) -> Self {
        Self { to, paths: BTreeSet::new() }
    }

    /// A folder, and those above it.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() || self.paths.contains(path) {
            return Ok(());
        }
        self.above(path)?;
        self.entry(path, FOLDER | 0o755, 2, b"")
    }

    /// A file with these permissions.
    pub(super) fn file(&mut self, path: &str, permissions: u32, bytes: &[u8]) -> io::Result<()> {
        self.above(path)?;
        self.entry(path, FILE | permissions, 1, bytes)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.above(path)?;
        self.entry(path, LINK | 0o777, 1, to.as_bytes())
    }

    /// Is something there already?
    pub(super) fn holds(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write(TRAILER, 0, 1, b"")?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn above(&mut self, path: &str) -> io::Result<()> {
        match path.rsplit_once('/') {
            Some((folder, _)) => self.folder(folder),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, bytes: &[u8]) -> io::Result<()> {
        if !self.paths.insert(path.to_owned()) {
            return Ok(());
        }
        self.write(path, mode, links, bytes)
    }

    fn write(&mut self, path: &str, mode: u32, links: u32, bytes: &[u8]) -> io::Result<()> {
        let size = u32::try_from(bytes.len()).map_err(|_| io::Error::other(format!("{path}: too large")))?;
        let inode = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        // Inode, mode, owner, group, links, time, size, two devices, length of the name, checksum.
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0];
        let mut header = MAGIC.to_owned();
        for field in fields {
            header += &format!("{field:08x}");
        }
        header += path;
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(bytes)
    }

    /// Everything begins at a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        self.to.write_all(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, MAGIC};

    /// Path, mode and contents of all entries.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], MAGIC.as_bytes());
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).expect("ASCII");
                u32::from_str_radix(text, 16).expect("a hexadecimal number")
            };
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let path = std::str::from_utf8(&bytes[110..110 + name - 1]).expect("UTF-8").to_owned();
            assert_eq!(bytes[110 + name - 1], 0);
            let at = (110 + name).next_multiple_of(4);
            found.push((path, mode, bytes[at..at + size].to_vec()));
            bytes = &bytes[(at + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn entries_come_after_their_folders_and_once() {
        let mut archive = Archive::into(Vec::new());
        archive.file("usr/bin/a", 0o755, b"12345").expect("a vector takes it");
        archive.file("usr/bin/a", 0o755, b"again").expect("a vector takes it");
        archive.link("usr/bin/b", "a").expect("a vector takes it");
        assert!(archive.holds("usr/bin/b") && !archive.holds("usr/bin/c"));
        let bytes = archive.finish().expect("a vector takes it");
        assert_eq!(bytes.len() % 4, 0);
        let found = read(&bytes);
        let paths: Vec<&str> = found.iter().map(|(path, ..)| path.as_str()).collect();
        assert_eq!(paths, ["usr", "usr/bin", "usr/bin/a", "usr/bin/b", "TRAILER!!!"]);
        assert_eq!((found[2].1, found[2].2.as_slice()), (0o100_755, &b"12345"[..]));
        assert_eq!((found[3].1, found[3].2.as_slice()), (0o120_777, &b"a"[..]));
        assert_eq!(found[0].1, 0o040_755);
    }
}
