//! The client's side of the handshake: GO, with the replies and contexts that were asked for.
//!
//! Invariant: at most [`REPLIES_MAX`] replies of at most [`OPTION_MAX`] bytes are read for one option.

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{ClientError, ClientOptions, Duplex, Remote};
use crate::offer::Style;
use crate::proto::{
    GREETING_MAGIC, Greeting, OPTION_MAGIC, OPTION_MAX, OPTION_REPLY_MAGIC, OptionHead, OptionReplyHead,
    PAYLOAD_MAX, handshake_flag, info, option, option_reply as rep,
};

/// Replies to one option.
const REPLIES_MAX: usize = 1024;

pub(super) fn negotiate(
    stream: &mut dyn Duplex,
    name: &str,
    options: &ClientOptions,
) -> Result<Remote, ClientError> {
    let mut greeting = Greeting::new_zeroed();
    stream.read_exact(greeting.as_mut_bytes())?;
    if greeting.magic.get() != GREETING_MAGIC || greeting.option_magic.get() != OPTION_MAGIC {
        return Err(ClientError::Protocol("the greeting is not that of a newstyle server"));
    }
    if greeting.flags.get() & handshake_flag::FIXED_NEWSTYLE == 0 {
        return Err(ClientError::Protocol("the server is too old: it does not do fixed newstyle"));
    }
    let flags = greeting.flags.get() & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
    stream.write_all(&u32::from(flags).to_be_bytes())?;

    let style = choose_style(stream, options.style)?;
    let contexts = if options.contexts.is_empty() || style == Style::Simple {
        Vec::new()
    } else {
        select_contexts(stream, name, &options.contexts)?
    };
    let mut body = string(name);
    let wanted = [info::EXPORT, info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
    body.extend_from_slice(&(wanted.len() as u16).to_be_bytes());
    body.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    let mut remote = Remote {
        size: 0,
        flags: 0,
        minimum: 1,
        preferred: 4096,
        maximum: PAYLOAD_MAX,
        name: String::new(),
        description: String::new(),
        style,
        contexts,
    };
    let mut described = false;
    for (kind, body) in ask(stream, option::GO, &body)? {
        if kind == rep::INFO {
            described |= learn(&mut remote, &body)?;
        }
    }
    if described {
        Ok(remote)
    } else {
        Err(ClientError::Protocol("the server did not tell the export's size"))
    }
}

fn choose_style(stream: &mut dyn Duplex, wanted: Style) -> Result<Style, ClientError> {
    for (style, option) in
        [(Style::Extended, option::EXTENDED_HEADERS), (Style::Structured, option::STRUCTURED_REPLY)]
    {
        let asked = style == wanted || (wanted == Style::Extended && style == Style::Structured);
        if asked {
            match ask(stream, option, &[]) {
                Ok(_) => return Ok(style),
                Err(ClientError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Style::Simple)
}

fn select_contexts(
    stream: &mut dyn Duplex,
    name: &str,
    contexts: &[String],
) -> Result<Vec<(u32, String)>, ClientError> {
    let mut body = string(name);
    body.extend_from_slice(&u32::try_from(contexts.len()).unwrap_or(u32::MAX).to_be_bytes());
    contexts.iter().for_each(|context| body.extend(string(context)));
    let mut selected = Vec::new();
    for (kind, body) in ask(stream, option::SET_META_CONTEXT, &body)? {
        if kind == rep::META_CONTEXT {
            let (id, name) =
                body.split_first_chunk().ok_or(ClientError::Protocol("a context without an id"))?;
            selected.push((u32::from_be_bytes(*id), String::from_utf8_lossy(name).into_owned()));
        }
    }
    Ok(selected)
}

/// Takes in one piece of information; true when it is the size.
fn learn(remote: &mut Remote, body: &[u8]) -> Result<bool, ClientError> {
    let short = ClientError::Protocol("a piece of information is too short");
    let Some((kind, rest)) = body.split_first_chunk() else { return Err(short) };
    match u16::from_be_bytes(*kind) {
        info::EXPORT => {
            let Some((size, flags)) = rest.split_first_chunk() else { return Err(short) };
            let Some(flags) = flags.first_chunk() else { return Err(short) };
            (remote.size, remote.flags) = (u64::from_be_bytes(*size), u16::from_be_bytes(*flags));
            return Ok(true);
        }
        info::BLOCK_SIZE => {
            let ([minimum, preferred, maximum], []) = rest.as_chunks::<4>() else { return Err(short) };
            let sizes = [minimum, preferred, maximum].map(|bytes| u32::from_be_bytes(*bytes));
            let [minimum, preferred, maximum] = sizes;
            if !minimum.is_power_of_two() || !preferred.is_power_of_two() || minimum > maximum {
                return Err(ClientError::Protocol("the block sizes make no sense"));
            }
            // Pieces of a long transfer must stay aligned.
            (remote.minimum, remote.preferred) = (minimum, preferred);
            remote.maximum = maximum - maximum % minimum;
        }
        info::NAME => remote.name = String::from_utf8_lossy(rest).into_owned(),
        info::DESCRIPTION => remote.description = String::from_utf8_lossy(rest).into_owned(),
        _ => {}
    }
    Ok(false)
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Sends an option; returns the replies before the ACK, as (type, body).
fn ask(stream: &mut dyn Duplex, option: u32, body: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, ClientError> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let head = OptionHead { magic: OPTION_MAGIC.into(), option: option.into(), length: length.into() };
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut replies = Vec::new();
    while replies.len() < REPLIES_MAX {
        let mut head = [0; size_of::<OptionReplyHead>()];
        stream.read_exact(&mut head)?;
        let head =
            OptionReplyHead::read_from_bytes(&head).map_err(|_| ClientError::Protocol("a short reply"))?;
        if head.magic.get() != OPTION_REPLY_MAGIC || head.option.get() != option {
            return Err(ClientError::Protocol("a reply to an option that was not sent"));
        }
        if head.length.get() > OPTION_MAX {
            return Err(ClientError::Protocol("the reply to an option is longer than 64 KiB"));
        }
        let mut body = vec![0; head.length.get() as usize];
        stream.read_exact(&mut body)?;
        match head.kind.get() {
            rep::ACK => return Ok(replies),
            kind if kind & rep::ERROR_BIT != 0 => {
                let message = String::from_utf8_lossy(&body);
                let code = kind & !rep::ERROR_BIT;
                return Err(ClientError::Refused(format!("error {code} {message}").trim_end().to_owned()));
            }
            kind => replies.push((kind, body)),
        }
    }
    Err(ClientError::Protocol("endless replies to an option"))
}
