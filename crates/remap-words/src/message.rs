//! Messages that every front end understands.
//!
//! Invariant: words are taken in any case; numbers are sectors of 512 bytes of the volume; a message that is taken names sectors
//! that the volume has.

use remap_core::units::{Extent, Sector};

use crate::sectors::{SectorError, parse_sector, parse_sectors};

/// Words that every front end understands, as the reply to an unknown one lists them.
pub const KNOWN: &str =
    "ping, remap, verify, clear, health, stats, save, restore, suspend, resume, help, metadata_status, sync";
const SPELLED_OTHERWISE: [&str; 4] = ["test_remap", "status", "clear_stats", "cache_stats"];

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Is anybody there?
    Ping,
    /// Which messages are there?
    Help,
    /// Move these sectors' blocks to a spare.
    Remap(Extent),
    /// The same for one sector, in the words of version 4.
    TestRemap(Sector),
    /// Where is this sector?
    Look(Sector),
    /// Read what is there; `None`: wherever the table has entries.
    Verify(Option<Extent>),
    /// Bring blocks back to the main device; `None`: all.
    Clear(Option<Extent>),
    /// How healthy is it?
    Health,
    /// One line of figures, in the words of version 4.
    Status,
    /// What was counted.
    Stats,
    /// Count from 0 again.
    ClearStats,
    /// What a cache would have counted.
    CacheStats,
    /// Write all metadata copies.
    Save,
    /// The same, in other words.
    Sync,
    /// Make all copies say what the table says.
    Restore,
    /// How often metadata were written.
    MetadataStatus,
    /// Remap nothing by itself.
    Suspend,
    /// Go on.
    Resume,
}

/// Why a message is refused. Its text is the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError<'a> {
    /// No such word.
    #[error("error: unknown command '{0}' (try: {KNOWN})")]
    Unknown(&'a str),
    /// Too many, or too few.
    #[error("error: wrong arguments for '{0}' (try: help)")]
    Arguments(&'a str),
    /// See there.
    #[error("error: {0}")]
    Sector(SectorError<'a>),
    /// Behind the end.
    #[error("error: invalid sector '{text}': the volume has {sectors} sectors")]
    Range {
        /// What was said.
        text: &'a str,
        /// Sectors of the volume.
        sectors: u64,
    },
    /// In the words of version 4.
    #[error("Usage: test_remap <bad_sector> <spare_sector>")]
    TestRemap,
    /// No table is brought back over one in service.
    #[error(
        "error: the table in service is newer than any dump or generation, and the blocks that moved since would be lost: nothing was \
         changed. 'restore' without arguments repairs the copies on the spares. To go back to an earlier table take the volume out of \
         service; 'dm-remap metadata compare' then shows what differs, 'dm-remap metadata rollback' goes back as far as the data allow \
         it, and 'dm-remap metadata restore' brings back metadata that are gone"
    )]
    NewerInService,
}

/// Reads the words of a message to a volume of `sectors` sectors.
///
/// # Errors
/// [`MessageError`].
pub fn parse<'a>(words: &[&'a str], sectors: u64) -> Result<Message, MessageError<'a>> {
    let Some((&command, args)) = words.split_first() else { return Err(MessageError::Unknown("")) };
    let is = |word: &str| command.eq_ignore_ascii_case(word);
    let within = |text: &'a str| {
        let extent = parse_sectors(text).map_err(MessageError::Sector)?;
        if extent.end().0 > sectors { Err(MessageError::Range { text, sectors }) } else { Ok(extent) }
    };
    let plain = [
        ("ping", Message::Ping),
        ("health", Message::Health),
        ("status", Message::Status),
        ("stats", Message::Stats),
        ("clear_stats", Message::ClearStats),
        ("cache_stats", Message::CacheStats),
        ("save", Message::Save),
        ("sync", Message::Sync),
        ("restore", Message::Restore),
        ("metadata_status", Message::MetadataStatus),
        ("suspend", Message::Suspend),
        ("resume", Message::Resume),
        ("verify", Message::Verify(None)),
        ("clear", Message::Clear(None)),
    ];
    if is("help") {
        return Ok(Message::Help);
    }
    let known = || KNOWN.split(", ").chain(SPELLED_OTHERWISE).any(is);
    match args {
        [] => match plain.iter().find(|(word, _)| is(word)) {
            Some((_, message)) => Ok(*message),
            None if is("test_remap") => Err(MessageError::TestRemap),
            None if known() => Err(MessageError::Arguments(command)),
            None => Err(MessageError::Unknown(command)),
        },
        [text] if is("remap") => within(text).map(Message::Remap),
        [text] if is("verify") && parse_sector(text).is_some() => {
            within(text).map(|e| Message::Look(e.start()))
        }
        [text] if is("verify") => within(text).map(|e| Message::Verify(Some(e))),
        [text] if is("clear") => within(text).map(|e| Message::Clear(Some(e))),
        [text, _] if is("test_remap") && parse_sector(text).is_some() => {
            within(text).map(|e| Message::TestRemap(e.start()))
        }
        _ if is("test_remap") => Err(MessageError::TestRemap),
        _ if is("restore") => Err(MessageError::NewerInService),
        _ if known() => Err(MessageError::Arguments(command)),
        _ => Err(MessageError::Unknown(command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString as _};
    use std::vec::Vec;

    fn read(text: &str) -> Result<Message, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        parse(&words, 1000).map_err(|error| error.to_string())
    }

    #[test]
    fn messages_are_read() {
        let run = |start, len| Extent::new(Sector(start), len).expect("not empty");
        for (text, message) in [
            ("ping", Message::Ping),
            ("PING", Message::Ping),
            ("help me", Message::Help),
            ("remap 7", Message::Remap(run(7, 1))),
            ("Remap 8-15", Message::Remap(run(8, 8))),
            ("test_remap 5 9", Message::TestRemap(Sector(5))),
            ("verify", Message::Verify(None)),
            ("verify 0x10", Message::Look(Sector(16))),
            ("verify 0+1000", Message::Verify(Some(run(0, 1000)))),
            ("clear", Message::Clear(None)),
            ("clear 999", Message::Clear(Some(run(999, 1)))),
            ("restore", Message::Restore),
        ] {
            assert_eq!(read(text), Ok(message), "{text}");
        }
    }

    #[test]
    fn refusals_say_what_would_do() {
        for (text, answer) in [
            ("", "error: unknown command '' (try: ping, remap, "),
            ("bogus 1 2", "error: unknown command 'bogus' (try: "),
            ("remap", "error: wrong arguments for 'remap'"),
            ("ping 1", "error: wrong arguments for 'ping'"),
            ("remap abc", "error: invalid sector 'abc'"),
            ("remap 1000", "error: invalid sector '1000': the volume has 1000 sectors"),
            ("remap 5-3", "error: invalid sectors '5-3'"),
            ("test_remap", "Usage: test_remap <bad_sector> <spare_sector>"),
            ("test_remap 1-5 2", "Usage: test_remap"),
            ("restore file", "error: the table in service is newer"),
            ("status now", "error: wrong arguments for 'status'"),
        ] {
            assert!(read(text).is_err_and(|found| found.starts_with(answer)), "{text}: {:?}", read(text));
        }
    }
}
