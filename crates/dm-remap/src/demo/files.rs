//! The files of the demo: made up from a seed, kept as the backup, and recognised by their checksums.
//!
//! Invariant: the backup directory holds every file as it should be read at the end; [`FileSet::files`] lists them all.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::random::Random;

/// A file of the demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DemoFile {
    /// Path from the root of the file system; no white space.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// SHA-256 of its contents.
    pub sha256: [u8; 32],
}

/// All files, and the directory that holds the originals.
#[derive(Debug)]
pub(crate) struct FileSet {
    /// The backup.
    pub backup: PathBuf,
    /// What is in it.
    pub files: Vec<DemoFile>,
}

/// The file that is written to while the server is killed.
pub(crate) const LEDGER: &str = "work/ledger.db";

/// SHA-256 of some bytes.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of a file.
pub(crate) fn sha256_of(path: &Path) -> anyhow::Result<[u8; 32]> {
    let mut file = fs::File::open(path).with_context(|| format!("{}", path.display()))?;
    let mut hash = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut bytes).with_context(|| format!("{}", path.display()))?;
        if n == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(bytes.get(..n).unwrap_or_default());
    }
}

/// First digits of a checksum, for people.
pub(crate) fn short(sha256: &[u8; 32]) -> String {
    sha256.iter().take(6).map(|b| format!("{b:02x}")).collect()
}

impl FileSet {
    /// Makes about `bytes` of files, and a ledger of `ledger` bytes.
    ///
    /// # Errors
    /// The backup directory cannot be written.
    pub(crate) fn make(backup: PathBuf, bytes: u64, ledger: u64, seed: u64) -> anyhow::Result<Self> {
        let mut set = Self { backup, files: Vec::new() };
        let mut random = Random::seeded(seed, 1);
        let mut left = bytes.saturating_sub(ledger);
        set.add(LEDGER, &noise(&mut random, ledger))?;
        let mut number = 0;
        while left > 0 {
            number += 1;
            let (path, contents) = match random.below(10) {
                0..4 => {
                    let len = random.between(1 << 10, 40 << 10).min(left);
                    (format!("documents/letter-{number:03}.txt"), prose(&mut random, len))
                }
                4..8 => {
                    let len = random.between(200 << 10, 900 << 10).min(left);
                    (format!("photos/{}/picture-{number:03}.jpg", 2019 + number % 5), noise(&mut random, len))
                }
                8 => {
                    let len = random.between(500 << 10, 2 << 20).min(left);
                    (format!("music/song-{number:03}.ogg"), noise(&mut random, len))
                }
                _ => {
                    let len = random.between(20 << 10, 300 << 10).min(left);
                    (format!("mail/box-{number:03}"), prose(&mut random, len))
                }
            };
            left -= (contents.len() as u64).min(left);
            set.add(&path, &contents)?;
        }
        Ok(set)
    }

    /// Adds a file, or gives one new contents.
    ///
    /// # Errors
    /// The backup directory cannot be written.
    pub(crate) fn add(&mut self, path: &str, contents: &[u8]) -> anyhow::Result<()> {
        let file = self.backup.join(path);
        let context = || format!("{}: cannot be written", file.display());
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).with_context(context)?;
        }
        fs::write(&file, contents).with_context(context)?;
        let made = DemoFile { path: path.to_owned(), len: contents.len() as u64, sha256: sha256(contents) };
        match self.files.iter_mut().find(|f| f.path == path) {
            Some(known) => *known = made,
            None => self.files.push(made),
        }
        Ok(())
    }

    /// The original of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn original(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let file = self.backup.join(path);
        fs::read(&file).with_context(|| format!("{}: cannot be read", file.display()))
    }

    /// Bytes in all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.len).sum()
    }
}

/// Bytes that look like a compressed file.
pub(crate) fn noise(random: &mut Random, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    random.fill(&mut bytes);
    bytes
}

/// Text of the given length.
fn prose(random: &mut Random, len: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the", "disk", "was", "old", "and", "its", "sectors", "grew", "weak", "but", "nobody", "had", "a",
        "copy", "of", "it",
    ];
    let len = usize::try_from(len).unwrap_or(0);
    let mut text = String::with_capacity(len + 16);
    while text.len() < len {
        let word = usize::try_from(random.below(WORDS.len() as u64)).unwrap_or(0);
        text.push_str(WORDS.get(word).unwrap_or(&"disk"));
        text.push(if random.below(12) == 0 { '\n' } else { ' ' });
    }
    text.truncate(len);
    text.into_bytes()
}
