//! Options in, replies out.

use super::*;
use crate::proto::{option as opt, transmission_flag};

fn offer() -> Offer {
    Offer {
        name: "vol".into(),
        description: "a volume".into(),
        size: 1 << 30,
        minimum: 512,
        preferred: 4096,
        maximum: 1 << 25,
        read_only: false,
        can_discard: true,
        rotational: false,
    }
}

fn message(option: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn info_body(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut body = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&u16::try_from(wanted.len()).unwrap().to_be_bytes());
    body.extend(wanted.iter().flat_map(|w| w.to_be_bytes()));
    body
}

fn query_body(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut body = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        body.extend_from_slice(&u32::try_from(query.len()).unwrap().to_be_bytes());
        body.extend_from_slice(query.as_bytes());
    }
    body
}

/// A handshake past the client's flags.
fn started(offer: &Offer) -> Handshake<'_> {
    let mut handshake = Handshake::new(offer);
    assert_eq!(handshake.advance(&3u32.to_be_bytes(), &mut Vec::new()), (4, Progress::Continue));
    handshake
}

/// Sends one option; returns the progress and the replies as (type, body).
fn ask(handshake: &mut Handshake<'_>, option: u32, body: &[u8]) -> (Progress, Vec<(u32, Vec<u8>)>) {
    let bytes = message(option, body);
    let mut out = Vec::new();
    let (used, progress) = handshake.advance(&bytes, &mut out);
    assert_eq!(used, bytes.len());
    let mut replies = Vec::new();
    let mut rest = &out[..];
    while !rest.is_empty() {
        let (head, tail) = OptionReplyHead::ref_from_prefix(rest).unwrap();
        assert_eq!((head.magic.get(), head.option.get()), (OPTION_REPLY_MAGIC, option));
        let (body, tail) = tail.split_at(head.length.get() as usize);
        replies.push((head.kind.get(), body.to_vec()));
        rest = tail;
    }
    (progress, replies)
}

fn kinds(replies: &[(u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|(kind, _)| *kind).collect()
}

#[test]
fn go_describes_and_starts() {
    let offer = offer();
    let mut handshake = started(&offer);
    let (progress, replies) = ask(&mut handshake, opt::GO, &info_body("vol", &[1, 2, 3, 77]));
    let negotiated = Negotiated { style: Style::Simple, contexts: Contexts::default() };
    assert_eq!(progress, Progress::Transmission(negotiated));
    assert_eq!(kinds(&replies), [rep::INFO, rep::INFO, rep::INFO, rep::INFO, rep::ACK]);
    let mut export = vec![0, 0];
    export.extend_from_slice(&(1u64 << 30).to_be_bytes());
    export.extend_from_slice(&offer.flags(Style::Simple).to_be_bytes());
    assert_eq!(replies[0].1, export);
    assert_eq!(replies[1].1, [0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0]);
    assert_eq!(replies[2].1, b"\0\x01vol");
    assert_eq!(replies[3].1, b"\0\x02a volume");
}

#[test]
fn info_does_not_start_and_unknown_names_are_told() {
    let offer = offer();
    let mut handshake = started(&offer);
    let (progress, replies) = ask(&mut handshake, opt::INFO, &info_body("", &[]));
    assert_eq!((progress, kinds(&replies)), (Progress::Continue, vec![rep::INFO, rep::INFO, rep::ACK]));
    for option in [opt::INFO, opt::GO] {
        let (progress, replies) = ask(&mut handshake, option, &info_body("nope", &[]));
        assert_eq!((progress, kinds(&replies)), (Progress::Continue, vec![rep::ERR_UNKNOWN]));
    }
}

#[test]
fn export_name_pads_unless_told_not_to() {
    let offer = offer();
    for (flags, len) in [(1u32, 134), (3, 10)] {
        let mut handshake = Handshake::new(&offer);
        handshake.advance(&flags.to_be_bytes(), &mut Vec::new());
        let mut out = Vec::new();
        let (_, progress) = handshake.advance(&message(opt::EXPORT_NAME, b"vol"), &mut out);
        assert!(matches!(progress, Progress::Transmission(_)));
        assert_eq!(out.len(), len);
        assert_eq!(out[..8], (1u64 << 30).to_be_bytes());
    }
}

#[test]
fn export_name_closes_on_what_it_cannot_serve() {
    let offer = offer();
    let long = vec![b'x'; STRING_MAX + 1];
    for name in [&b"nope"[..], &long] {
        let (progress, replies) = ask(&mut started(&offer), opt::EXPORT_NAME, name);
        assert_eq!((progress, replies.len()), (Progress::Close, 0));
    }
    let mut extended = started(&offer);
    ask(&mut extended, opt::EXTENDED_HEADERS, &[]);
    assert_eq!(ask(&mut extended, opt::EXPORT_NAME, b"vol").0, Progress::Close);
}

#[test]
fn list_names_the_volume() {
    let offer = offer();
    let (_, replies) = ask(&mut started(&offer), opt::LIST, &[]);
    assert_eq!(replies, [(rep::SERVER, b"\0\0\0\x03vola volume".to_vec()), (rep::ACK, vec![])]);
    let (progress, replies) = ask(&mut started(&offer), opt::LIST, b"x");
    assert_eq!((progress, kinds(&replies)), (Progress::Continue, vec![rep::ERR_INVALID]));
}

#[test]
fn styles_are_negotiated() {
    let offer = offer();
    let mut handshake = started(&offer);
    assert_eq!(kinds(&ask(&mut handshake, opt::STRUCTURED_REPLY, b"x").1), [rep::ERR_INVALID]);
    assert_eq!(kinds(&ask(&mut handshake, opt::STRUCTURED_REPLY, &[]).1), [rep::ACK]);
    let (progress, replies) = ask(&mut handshake, opt::GO, &info_body("", &[]));
    assert!(
        matches!(progress, Progress::Transmission(Negotiated { style: Style::Structured, .. })),
        "{progress:?}"
    );
    let flags = u16::from_be_bytes([replies[0].1[10], replies[0].1[11]]);
    assert_ne!(flags & transmission_flag::SEND_DF, 0);

    let mut handshake = started(&offer);
    assert_eq!(kinds(&ask(&mut handshake, opt::EXTENDED_HEADERS, &[]).1), [rep::ACK]);
    assert_eq!(kinds(&ask(&mut handshake, opt::STRUCTURED_REPLY, &[]).1), [rep::ERR_EXT_HEADER_REQD]);
    let (progress, _) = ask(&mut handshake, opt::GO, &info_body("", &[]));
    assert!(matches!(progress, Progress::Transmission(Negotiated { style: Style::Extended, .. })));
}

#[test]
fn contexts_are_listed_and_selected() {
    let offer = offer();
    let mut handshake = started(&offer);
    let all = [rep::META_CONTEXT, rep::META_CONTEXT, rep::ACK];
    assert_eq!(kinds(&ask(&mut handshake, opt::LIST_META_CONTEXT, &query_body("vol", &[])).1), all);
    let (_, replies) =
        ask(&mut handshake, opt::LIST_META_CONTEXT, &query_body("vol", &["dm-remap:", "qemu:"]));
    assert_eq!(replies, [(rep::META_CONTEXT, b"\0\0\0\0dm-remap:state".to_vec()), (rep::ACK, vec![])]);

    let both = query_body("vol", &["base:allocation", "x:y", "dm-remap:state", "base:"]);
    let (_, replies) = ask(&mut handshake, opt::SET_META_CONTEXT, &both);
    assert_eq!(kinds(&replies), [rep::ERR_INVALID], "structured replies come first");
    ask(&mut handshake, opt::STRUCTURED_REPLY, &[]);
    let (_, replies) = ask(&mut handshake, opt::SET_META_CONTEXT, &both);
    assert_eq!(replies[0].1, b"\0\0\0\x01base:allocation");
    assert_eq!(replies[1].1, b"\0\0\0\x02dm-remap:state");
    let Progress::Transmission(agreed) = ask(&mut handshake, opt::GO, &info_body("vol", &[])).0 else {
        panic!("GO must start")
    };
    assert_eq!(agreed.contexts, Contexts { allocation: true, state: true });
}

#[test]
fn contexts_are_dropped_by_a_failure_and_by_another_name() {
    let offer = offer();
    let select = query_body("vol", &["base:allocation"]);
    for (option, body, name) in [
        (opt::SET_META_CONTEXT, query_body("vol", &[]), "vol"),
        (opt::SET_META_CONTEXT, query_body("nope", &["base:allocation"]), "vol"),
        (opt::SET_META_CONTEXT, vec![1], "vol"),
        (opt::LIST, vec![], ""),
    ] {
        let mut handshake = started(&offer);
        ask(&mut handshake, opt::STRUCTURED_REPLY, &[]);
        ask(&mut handshake, opt::SET_META_CONTEXT, &select);
        ask(&mut handshake, option, &body);
        let Progress::Transmission(agreed) = ask(&mut handshake, opt::GO, &info_body(name, &[])).0 else {
            panic!("GO must start")
        };
        assert!(agreed.contexts.is_empty());
    }
}

#[test]
fn abort_unknown_options_and_tls() {
    let offer = offer();
    let (progress, replies) = ask(&mut started(&offer), opt::ABORT, b"junk");
    assert_eq!((progress, kinds(&replies)), (Progress::Close, vec![rep::ACK]));
    for option in [0, 4, opt::STARTTLS, 12, u32::MAX] {
        let (progress, replies) = ask(&mut started(&offer), option, b"junk");
        assert_eq!((progress, kinds(&replies)), (Progress::Continue, vec![rep::ERR_UNSUP]));
    }
}

#[test]
fn bad_magic_and_unknown_client_flags_close() {
    let offer = offer();
    assert_eq!(Handshake::new(&offer).advance(&4u32.to_be_bytes(), &mut Vec::new()).1, Progress::Close);
    assert_eq!(
        Handshake::new(&offer).advance(&0x1_0001u32.to_be_bytes(), &mut Vec::new()).1,
        Progress::Close
    );
    let mut bytes = message(opt::LIST, &[]);
    bytes[0] ^= 1;
    assert_eq!(started(&offer).advance(&bytes, &mut Vec::new()).1, Progress::Close);
}

#[test]
fn an_option_longer_than_the_cap_ends_it_before_its_bytes_arrive() {
    let offer = offer();
    for (option, length, answered) in
        [(opt::GO, u32::MAX, true), (99, OPTION_MAX + 1, true), (opt::EXPORT_NAME, u32::MAX, false)]
    {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&option.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        let mut out = Vec::new();
        assert_eq!(started(&offer).advance(&bytes, &mut out).1, Progress::Close);
        assert_eq!(!out.is_empty(), answered);
    }
}

#[test]
fn endless_options_end() {
    let offer = offer();
    let mut handshake = started(&offer);
    for _ in 0..OPTIONS_PER_HANDSHAKE {
        assert_eq!(ask(&mut handshake, opt::LIST, &[]).0, Progress::Continue);
    }
    assert_eq!(ask(&mut handshake, opt::LIST, &[]).0, Progress::Close);
}

#[test]
fn every_cut_waits_for_more() {
    let offer = offer();
    let bytes = message(opt::GO, &info_body("vol", &[3]));
    for cut in 0..bytes.len() {
        let mut out = Vec::new();
        assert_eq!(started(&offer).advance(&bytes[..cut], &mut out), (0, Progress::NeedMore));
        assert!(out.is_empty());
    }
}

#[test]
fn noise_never_panics_and_always_ends() {
    let offer = offer();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let script = [
        message(opt::STRUCTURED_REPLY, &[]),
        message(opt::SET_META_CONTEXT, &query_body("vol", &["base:allocation"])),
        message(opt::LIST, &[]),
        message(opt::GO, &info_body("vol", &[3])),
    ]
    .concat();
    for _ in 0..20_000 {
        let mut bytes = script.clone();
        for _ in 0..1 + noise() % 4 {
            let at = usize::try_from(noise()).unwrap() % bytes.len();
            bytes[at] = noise().to_be_bytes()[3];
        }
        let mut handshake = started(&offer);
        let (mut at, mut out) = (0, Vec::new());
        loop {
            let (used, progress) = handshake.advance(&bytes[at..], &mut out);
            at += used;
            if progress != Progress::Continue {
                break;
            }
            assert!(used > 0);
        }
    }
}
