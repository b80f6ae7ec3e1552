//! The negotiation before transmission, without I/O: bytes of the client in, bytes for the client out.
//!
//! Invariant: the state changes only by an option that succeeded, and every path ends in [`Progress::Transmission`] or
//! [`Progress::Close`] after at most [`OPTIONS_PER_HANDSHAKE`] options of at most [`OPTION_MAX`] bytes each.

mod option;

use zerocopy::{FromBytes, IntoBytes};

use self::option::{BadOption, ContextQuery, InfoRequest};
use crate::offer::{Offer, Style};
use crate::proto::{
    self, CONTEXT_ALLOCATION, CONTEXT_ALLOCATION_ID, CONTEXT_STATE, CONTEXT_STATE_ID, GREETING_MAGIC,
    Greeting, OPTION_MAGIC, OPTION_MAX, OPTION_REPLY_MAGIC, OPTIONS_PER_HANDSHAKE, OptionHead,
    OptionReplyHead, STRING_MAX, handshake_flag, info, option_reply as rep,
};

/// Metadata contexts that the client selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contexts {
    /// `base:allocation`.
    pub allocation: bool,
    /// `dm-remap:state`.
    pub state: bool,
}

impl Contexts {
    /// Is there none?
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What was agreed on for transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// How requests and replies look.
    pub style: Style,
    /// What a block status query is about.
    pub contexts: Contexts,
}

/// What came of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was consumed; more bytes are needed.
    NeedMore,
    /// One message was handled; there may be more in the input.
    Continue,
    /// The handshake is over; what follows in the input are requests.
    Transmission(Negotiated),
    /// Send what is in the output, then close the connection.
    Close,
}

/// State of one negotiation.
#[derive(Debug)]
pub struct Handshake<'a> {
    offer: &'a Offer,
    client_flags: Option<u16>,
    options_seen: u32,
    structured: bool,
    extended: bool,
    contexts: Contexts,
    /// Export name that the contexts were selected for.
    contexts_name: Vec<u8>,
}

impl<'a> Handshake<'a> {
    /// A negotiation over `offer`. Send [`Self::greeting`] first.
    #[must_use]
    pub fn new(offer: &'a Offer) -> Self {
        Self {
            offer,
            client_flags: None,
            options_seen: 0,
            structured: false,
            extended: false,
            contexts: Contexts::default(),
            contexts_name: Vec::new(),
        }
    }

    /// What the server says first.
    #[must_use]
    pub fn greeting(&self) -> Greeting {
        Greeting {
            magic: GREETING_MAGIC.into(),
            option_magic: OPTION_MAGIC.into(),
            flags: (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).into(),
        }
    }

    /// Handles one message at the front of `input`; returns the bytes consumed, and appends the answer to `out`.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Progress) {
        if self.client_flags.is_none() {
            return self.accept_flags(input);
        }
        let Ok((head, rest)) = OptionHead::ref_from_prefix(input) else { return (0, Progress::NeedMore) };
        if head.magic.get() != OPTION_MAGIC {
            return (0, Progress::Close);
        }
        let (option, length) = (head.option.get(), head.length.get());
        if length > OPTION_MAX {
            // Whether 64 KiB or 4 GiB follow: reading them to find the next option is work that a peer could order.
            if option != proto::option::EXPORT_NAME {
                error(out, option, rep::ERR_TOO_BIG, "the option is longer than 64 KiB");
            }
            return (0, Progress::Close);
        }
        let length = length as usize;
        let Some(body) = rest.get(..length) else { return (0, Progress::NeedMore) };
        self.options_seen += 1;
        let progress = if self.options_seen > OPTIONS_PER_HANDSHAKE {
            error(out, option, rep::ERR_TOO_BIG, "too many options in one handshake");
            Progress::Close
        } else {
            self.option(option, body, out)
        };
        (size_of::<OptionHead>() + length, progress)
    }

    fn accept_flags(&mut self, input: &[u8]) -> (usize, Progress) {
        let Some(bytes) = input.first_chunk::<4>() else { return (0, Progress::NeedMore) };
        let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        let flags = u32::from_be_bytes(*bytes);
        if flags & !known != 0 {
            return (4, Progress::Close);
        }
        self.client_flags = u16::try_from(flags).ok();
        (4, Progress::Continue)
    }

    fn option(&mut self, option: u32, body: &[u8], out: &mut Vec<u8>) -> Progress {
        use proto::option as opt;
        match option {
            opt::EXPORT_NAME => return self.export_name(body, out),
            opt::ABORT => {
                reply(out, option, rep::ACK, &[]);
                return Progress::Close;
            }
            opt::INFO | opt::GO => match InfoRequest::parse(body) {
                Ok(request) if !self.offer.answers_to(request.name) => {
                    error(out, option, rep::ERR_UNKNOWN, &self.unknown_name());
                }
                Ok(request) => {
                    self.describe(option, &request, out);
                    if option == opt::GO {
                        return Progress::Transmission(self.agreed(request.name));
                    }
                }
                Err(bad) => refuse(out, option, bad),
            },
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, body, out),
            opt::LIST | opt::STRUCTURED_REPLY | opt::EXTENDED_HEADERS if !body.is_empty() => {
                error(out, option, rep::ERR_INVALID, "this option takes no data");
            }
            opt::LIST => self.list(out),
            opt::STRUCTURED_REPLY if self.extended => {
                error(out, option, rep::ERR_EXT_HEADER_REQD, "extended headers are already in use");
            }
            opt::STRUCTURED_REPLY => {
                self.structured = true;
                reply(out, option, rep::ACK, &[]);
            }
            opt::EXTENDED_HEADERS => {
                self.extended = true;
                reply(out, option, rep::ACK, &[]);
            }
            _ => error(out, option, rep::ERR_UNSUP, "this server does not know the option"),
        }
        Progress::Continue
    }

    fn style(&self) -> Style {
        match (self.extended, self.structured) {
            (true, _) => Style::Extended,
            (false, true) => Style::Structured,
            (false, false) => Style::Simple,
        }
    }

    /// Contexts hold only for the export name that they were selected for.
    fn agreed(&self, name: &[u8]) -> Negotiated {
        let contexts = if self.contexts_name == name { self.contexts } else { Contexts::default() };
        Negotiated { style: self.style(), contexts }
    }

    fn unknown_name(&self) -> String {
        format!("no such export; this server has \"{}\", which is also the empty name", self.offer.name)
    }

    /// The old way in: there is no error reply, only closing.
    fn export_name(&self, name: &[u8], out: &mut Vec<u8>) -> Progress {
        if self.extended || name.len() > STRING_MAX || !self.offer.answers_to(name) {
            return Progress::Close;
        }
        out.extend_from_slice(&self.offer.size.to_be_bytes());
        out.extend_from_slice(&self.offer.flags(self.style()).to_be_bytes());
        if self.client_flags.is_none_or(|flags| flags & handshake_flag::NO_ZEROES == 0) {
            out.extend_from_slice(&[0; 124]);
        }
        Progress::Transmission(self.agreed(name))
    }

    fn list(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(4 + self.offer.name.len() + self.offer.description.len());
        body.extend_from_slice(&wire_len(self.offer.name.len()).to_be_bytes());
        body.extend_from_slice(self.offer.name.as_bytes());
        body.extend_from_slice(self.offer.description.as_bytes());
        reply(out, proto::option::LIST, rep::SERVER, &body);
        reply(out, proto::option::LIST, rep::ACK, &[]);
    }

    fn describe(&self, option: u32, request: &InfoRequest<'_>, out: &mut Vec<u8>) {
        let offer = self.offer;
        let mut piece = |kind: u16, fields: &[&[u8]]| {
            let mut body = kind.to_be_bytes().to_vec();
            fields.iter().for_each(|field| body.extend_from_slice(field));
            reply(out, option, rep::INFO, &body);
        };
        piece(info::EXPORT, &[&offer.size.to_be_bytes(), &offer.flags(self.style()).to_be_bytes()]);
        // Sent unasked too: a client that knows the word obeys it, others skip it.
        let sizes = [offer.minimum, offer.preferred, offer.maximum].map(u32::to_be_bytes);
        piece(info::BLOCK_SIZE, &[&sizes[0], &sizes[1], &sizes[2]]);
        if request.wanted.contains(&info::NAME) {
            piece(info::NAME, &[offer.name.as_bytes()]);
        }
        if request.wanted.contains(&info::DESCRIPTION) {
            piece(info::DESCRIPTION, &[offer.description.as_bytes()]);
        }
        reply(out, option, rep::ACK, &[]);
    }

    fn meta_context(&mut self, option: u32, body: &[u8], out: &mut Vec<u8>) {
        let set = option == proto::option::SET_META_CONTEXT;
        if set {
            // Also when it fails: the client starts over.
            self.contexts = Contexts::default();
            self.contexts_name.clear();
            if self.style() == Style::Simple {
                return error(out, option, rep::ERR_INVALID, "negotiate structured replies first");
            }
        }
        let request = match ContextQuery::parse(body) {
            Ok(request) => request,
            Err(bad) => return refuse(out, option, bad),
        };
        if !self.offer.answers_to(request.name) {
            return error(out, option, rep::ERR_UNKNOWN, &self.unknown_name());
        }
        let chosen = |context: &str| {
            let all = !set && request.queries.is_empty();
            all || request.queries.iter().any(|query| selects(query, context, !set))
        };
        let contexts = Contexts { allocation: chosen(CONTEXT_ALLOCATION), state: chosen(CONTEXT_STATE) };
        for (there, id, context) in [
            (contexts.allocation, CONTEXT_ALLOCATION_ID, CONTEXT_ALLOCATION),
            (contexts.state, CONTEXT_STATE_ID, CONTEXT_STATE),
        ] {
            if there {
                let mut body = if set { id } else { 0 }.to_be_bytes().to_vec();
                body.extend_from_slice(context.as_bytes());
                reply(out, option, rep::META_CONTEXT, &body);
            }
        }
        reply(out, option, rep::ACK, &[]);
        if set {
            self.contexts = contexts;
            self.contexts_name = request.name.to_vec();
        }
    }
}

/// A query names a context, or (in a list) its whole namespace: `base:`.
fn selects(query: &[u8], context: &str, wildcard: bool) -> bool {
    let namespace = context.find(':').map_or(context, |colon| &context[..=colon]);
    query == context.as_bytes() || (wildcard && query == namespace.as_bytes())
}

/// Lengths that this side makes are far below 2^32.
fn wire_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn reply(out: &mut Vec<u8>, option: u32, kind: u32, body: &[u8]) {
    let head = OptionReplyHead {
        magic: OPTION_REPLY_MAGIC.into(),
        option: option.into(),
        kind: kind.into(),
        length: wire_len(body.len()).into(),
    };
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

fn error(out: &mut Vec<u8>, option: u32, kind: u32, message: &str) {
    reply(out, option, kind, &message.as_bytes()[..message.len().min(STRING_MAX)]);
}

fn refuse(out: &mut Vec<u8>, option: u32, bad: BadOption) {
    match bad {
        BadOption::Malformed(why) => error(out, option, rep::ERR_INVALID, why),
        BadOption::TooBig(why) => error(out, option, rep::ERR_TOO_BIG, why),
    }
}

#[cfg(test)]
mod tests;
