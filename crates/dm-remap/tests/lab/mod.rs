//! What the tests with real clients share: images with known bytes, the server as a child, tools with a time limit.
//!
//! Invariant: whatever a test does, its children are dead and its files gone when it ends, and a test that cannot run
//! here says why: in the file that `DM_REMAP_SKIPS` names, or by failing when `CI=true`.
#![allow(dead_code, unused_imports, reason = "each test file uses its part of the lab")]

pub(crate) mod needs;
pub(crate) mod server;
pub(crate) mod tool;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use remap_nbd::{Client, ClientOptions, Uri};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub(crate) use needs::can;
pub(crate) use server::{Server, nbdkit};
pub(crate) use tool::Tool;

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 512;

/// Name of every volume here.
pub(crate) const NAME: &str = "lab";

/// A folder with a main device, a spare and sockets.
pub(crate) struct Lab {
    folder: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("dmr").tempdir().expect("a temporary folder");
        Self { folder }
    }

    /// A lab with a main device of so many sectors, stamped with seed 1.
    pub(crate) fn with_main(sectors: u64) -> Self {
        let lab = Self::new();
        write_image(&lab.main(), sectors, 1);
        lab
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn main(&self) -> PathBuf {
        self.path("main.img")
    }

    pub(crate) fn spare(&self) -> PathBuf {
        self.path("spare.img")
    }

    /// The binary under test with the arguments that name this lab's devices in place of `MAIN` and `SPARE`.
    pub(crate) fn dm_remap(&self, args: &[&str]) -> Tool {
        let mut tool = Tool::of(env!("CARGO_BIN_EXE_dm-remap")).folder(self.folder());
        for arg in args {
            tool = match *arg {
                "MAIN" => tool.arg(self.main()),
                "SPARE" => tool.arg("--spare").arg(self.spare()),
                "CONTROL" => tool.arg(self.path("control")),
                other => tool.arg(other),
            };
        }
        tool
    }

    /// Adopts the main device with a spare file made for it.
    pub(crate) fn adopt(&self, more: &[&str]) {
        self.adopt_to("64M", more);
    }

    /// The same, with a spare of this size.
    pub(crate) fn adopt_to(&self, spare: &str, more: &[&str]) {
        let mut args = vec!["adopt", "MAIN", "SPARE", "--create-spare", spare, "--name", NAME];
        args.extend(more);
        self.dm_remap(&args).ok();
    }

    /// Starts the server and waits until it serves.
    pub(crate) fn serve(&self, more: &[&str]) -> Server {
        Server::start(self, more)
    }

    /// A file with this text.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in the lab");
        path
    }
}

/// A connection of our own client.
pub(crate) fn connect(uri: &str) -> Client {
    let uri: Uri = uri.parse().expect("a URI of the lab");
    let options = ClientOptions { contexts: vec!["dm-remap:state".into()], ..ClientOptions::default() };
    Client::connect(&uri, &options).unwrap_or_else(|error| panic!("connecting to {uri:?}: {error}"))
}

/// Bytes that say which sector of which generation they are.
pub(crate) fn stamp(seed: u64, sector: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    let mut state = seed ^ sector.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        // SplitMix64: no two sectors alike, nothing compressible.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let value = match index {
            0 => sector,
            1 => seed,
            _ => z ^ (z >> 31),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// Stamps of a range of sectors.
pub(crate) fn stamps(seed: u64, sectors: Range<u64>) -> Vec<u8> {
    sectors.flat_map(|sector| stamp(seed, sector)).collect()
}

/// A stamped image.
pub(crate) fn write_image(path: &Path, sectors: u64, seed: u64) {
    let mut file = File::create(path).expect("an image");
    for begin in (0..sectors).step_by(2048) {
        let end = sectors.min(begin + 2048);
        file.write_all(&stamps(seed, begin..end)).expect("room for an image");
    }
}

/// An image of `size` bytes without contents.
pub(crate) fn write_sparse(path: &Path, size: u64) -> File {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("an image");
    file.set_len(size).expect("a sparse image");
    file
}

/// The whole of a file.
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// Part of a file.
pub(crate) fn bytes_at(path: &Path, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).expect("a part that fits")];
    let file = File::open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    file.read_exact_at(&mut bytes, offset).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes
}

/// Fails with the first sector that differs, not with a screen of bytes.
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let pairs = found.chunks(SECTOR as usize).zip(expected.chunks(SECTOR as usize));
    let wrong: Vec<usize> =
        pairs.enumerate().filter(|(_, (a, b))| a != b).map(|(sector, _)| sector).collect();
    let first = wrong.first().map(|sector| {
        let at = sector * SECTOR as usize;
        (&found[at..at + 16], &expected[at..at + 16])
    });
    assert!(wrong.is_empty(), "{what}: {} sectors differ, first {:?}: {first:x?}", wrong.len(), wrong[0]);
}

/// SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> [u8; 32] {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("opening {}: {error}", path.display()));
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return hash.finalize().into(),
            Ok(n) => hash.update(&piece[..n]),
            Err(error) => panic!("reading {}: {error}", path.display()),
        }
    }
}

/// Sectors as a ddrescue map of a device: `-` for those in `lost`, `+` for the others.
pub(crate) fn ddrescue_map(sectors: u64, lost: &[Range<u64>]) -> String {
    let mut text = String::from("# Mapfile. Made for a test\n0x0     +               1\n");
    let mut line = |range: Range<u64>, status: char| {
        if !range.is_empty() {
            let (start, len) = (range.start * SECTOR, (range.end - range.start) * SECTOR);
            text += &format!("0x{start:08X}  0x{len:08X}  {status}\n");
        }
    };
    let mut at = 0;
    for range in lost {
        line(at..range.start, '+');
        line(range.clone(), '-');
        at = range.end;
    }
    line(at..sectors, '+');
    text
}

/// The same as `sectors:` of a drill.
pub(crate) fn sector_list(ranges: &[Range<u64>]) -> String {
    let parts: Vec<String> = ranges.iter().map(|r| format!("{}-{}", r.start, r.end - 1)).collect();
    parts.join(";")
}
