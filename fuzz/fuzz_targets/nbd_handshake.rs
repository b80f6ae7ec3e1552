//! The NBD handshake, both sides: whatever a client sends, the server's answers are bounded and do not depend on how the bytes
//! were cut; whatever a server sends, the client believes only what makes sense; and the two agree with each other.

#![no_main]

use bench::input::Input;
use bench::memory;
use bench::peer::{OFFERS, Parrot, STYLES, Server};
use libfuzzer_sys::fuzz_target;
use remap_nbd::handshake::{Handshake, Progress};
use remap_nbd::offer::{Offer, Style};
use remap_nbd::proto::{
    CONTEXT_ALLOCATION, CONTEXT_STATE, GREETING_MAGIC, OPTION_MAGIC, OPTION_MAX, OPTION_REPLY_MAGIC,
    OPTIONS_PER_HANDSHAKE, STRING_MAX,
};
use remap_nbd::{Client, ClientOptions};

/// Answers to one option: two names, a description and a few heads.
const ANSWER_MAX: usize = 4 * STRING_MAX;
/// What a client says at most: a long name takes one byte of an input, so the input's length is no bound.
const SAID_MAX: usize = 64 << 10;
/// What a side keeps of the other beyond the bytes that it was sent; and what was said, which grows by doubling.
const MEMORY: usize = (256 << 10) + 4 * SAID_MAX + ANSWER_MAX * OPTIONS_PER_HANDSHAKE as usize;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::of(bytes);
    let choices = input.u8();
    let offer = &OFFERS[usize::from(choices >> 2 & 3)];
    let options = ClientOptions {
        style: STYLES[usize::from(choices >> 4) % 3],
        contexts: [CONTEXT_ALLOCATION, CONTEXT_STATE, "x:y"][..usize::from(choices >> 6)]
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
        timeout: None,
    };
    let bound = MEMORY + 8 * bytes.len();
    memory::within(bound, || match choices & 3 {
        0 => server(offer, &mut input, |input| input.bytes(usize::MAX).to_vec()),
        1 => server(offer, &mut input, options_of),
        2 => client(&mut input, &options),
        _ => both(offer, &mut input, &options),
    });
});

/// A client's words, option by option.
fn options_of(input: &mut Input<'_>) -> Vec<u8> {
    let mut said = u32::from(input.u8() & 3).to_be_bytes().to_vec();
    while !input.is_empty() && said.len() < SAID_MAX {
        let (option, how) = (u32::from(input.u8() % 14), input.u8());
        let body = match how & 3 {
            0 => Vec::new(),
            1 => {
                let len = usize::from(input.u8());
                input.bytes(len).to_vec()
            }
            2 => [
                string(name(input)),
                u16::from(how >> 4).to_be_bytes().to_vec(),
                input.bytes(usize::from(how >> 4) * 2).to_vec(),
            ]
            .concat(),
            _ => {
                let mut body = string(name(input));
                body.extend(u32::from(how >> 4).to_be_bytes());
                for _ in 0..how >> 4 {
                    let contexts: [&[u8]; 5] =
                        [b"base:allocation", b"dm-remap:state", b"base:", b"dm-remap:", b""];
                    body.extend(string(contexts[input.below(5)]));
                }
                body
            }
        };
        let length = if how & 12 == 12 { u32::from(input.u16()) * 3 } else { body.len() as u32 };
        said.extend(OPTION_MAGIC.to_be_bytes());
        said.extend(option.to_be_bytes());
        said.extend(length.to_be_bytes());
        said.extend(body);
    }
    said
}

fn name(input: &mut Input<'_>) -> &'static [u8] {
    let names: [&[u8]; 4] = [b"", b"v", b"other", &[b'n'; STRING_MAX]];
    names[input.below(4)]
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

/// How a handshake ended: bytes taken, the answer, the last word.
type Ending = (usize, Vec<u8>, Progress);

fn server(offer: &'static Offer, input: &mut Input<'_>, say: impl Fn(&mut Input<'_>) -> Vec<u8>) {
    let steps = [usize::from(input.u8()) + 1, usize::from(input.u8()) + 1];
    let said = say(input);
    let whole = converse(offer, &said, [said.len().max(1); 2]);
    assert_eq!(whole, converse(offer, &said, steps), "how the bytes are cut makes no difference");
}

fn converse(offer: &'static Offer, said: &[u8], steps: [usize; 2]) -> Ending {
    let mut handshake = Handshake::new(offer);
    let mut out = Vec::new();
    let (mut taken, mut visible) = (0, 0);
    for step in steps.iter().cycle() {
        loop {
            let before = out.len();
            let unread = &said[taken..visible];
            let (used, progress) = handshake.advance(unread, &mut out);
            assert!(used <= unread.len() && out.len() - before <= ANSWER_MAX, "{used} {}", out.len());
            assert!(used <= 16 + OPTION_MAX as usize);
            taken += used;
            match progress {
                Progress::Continue => assert!(used > 0, "an endless handshake"),
                Progress::NeedMore => {
                    assert_eq!((used, before), (0, out.len()));
                    break;
                }
                Progress::Transmission(_) | Progress::Close => return (taken, out, progress),
            }
        }
        if visible == said.len() {
            return (taken, out, Progress::NeedMore);
        }
        visible = (visible + step).min(said.len());
    }
    unreachable!("the steps never end")
}

/// A server that makes things up.
fn client(input: &mut Input<'_>, options: &ClientOptions) {
    let mut says = Vec::new();
    if input.u8() & 1 == 0 {
        says.extend(GREETING_MAGIC.to_be_bytes());
        says.extend(OPTION_MAGIC.to_be_bytes());
        says.extend([0, 3]);
        while !input.is_empty() {
            let (option, kind, how) = (u32::from(input.u8() % 12), input.u8(), input.u8());
            let kind = u32::from(kind & 15) | u32::from(kind >> 7) << 31;
            let body = match how & 3 {
                0 => Vec::new(),
                // The size, and the sizes of blocks.
                1 => [&[0, 0], input.bytes(10)].concat(),
                2 => [&[0, 3], input.bytes(12)].concat(),
                _ => input.bytes(usize::from(how >> 2)).to_vec(),
            };
            says.extend(OPTION_REPLY_MAGIC.to_be_bytes());
            says.extend(option.to_be_bytes());
            says.extend(kind.to_be_bytes());
            says.extend((body.len() as u32).to_be_bytes());
            says.extend(body);
        }
    } else {
        says.extend(input.bytes(usize::MAX));
    }
    match Client::over(Box::new(Parrot::of(&says)), "v", options) {
        Ok(client) => {
            let remote = client.remote();
            assert!(remote.minimum.is_power_of_two() && remote.minimum <= remote.maximum, "{remote:?}");
            assert!(remote.maximum.is_multiple_of(remote.minimum), "{remote:?}");
            assert!(remote.contexts.is_empty() || remote.style != Style::Simple, "{remote:?}");
        }
        Err(error) => assert!(error.to_string().len() < 5000 + 4 * says.len()),
    }
}

/// The client and the server of this crate.
fn both(offer: &'static Offer, input: &mut Input<'_>, options: &ClientOptions) {
    let name = String::from_utf8_lossy(name(input)).into_owned();
    let server = Server::of(offer, Box::new(|_, _| None));
    let outcome = Client::over(Box::new(server), &name, options);
    assert_eq!(outcome.is_ok(), offer.answers_to(name.as_bytes()), "{outcome:?}");
    if let Ok(client) = outcome {
        let remote = client.remote();
        assert_eq!((remote.size, remote.style), (offer.size, options.style));
        assert_eq!((remote.minimum, remote.preferred), (offer.minimum, offer.preferred));
        assert_eq!(remote.flags, offer.flags(options.style));
        let known = options.contexts.iter().filter(|name| *name != "x:y").count();
        assert_eq!(remote.contexts.len(), if options.style == Style::Simple { 0 } else { known });
    }
}
