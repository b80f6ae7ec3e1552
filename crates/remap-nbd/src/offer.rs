//! What the server offers of its one export: name, size, limits, flags.
//!
//! Invariant: the sizes obey the protocol's rules (powers of two, `minimum <= preferred <= maximum`, the size a multiple
//! of the minimum), whatever the export says.

use remap_runtime::front::Geometry;

use crate::proto::{PAYLOAD_MAX, STRING_MAX, transmission_flag as flag};

/// How replies look in the transmission phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// 16-byte replies, the data of a read behind them.
    Simple,
    /// Chunks with 20-byte heads for reads and errors.
    Structured,
    /// Chunks with 32-byte heads for everything, 64-bit lengths in requests.
    Extended,
}

/// The export as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Name; the empty name means the same export.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Size in bytes.
    pub size: u64,
    /// Offsets and lengths must be multiples of this many bytes.
    pub minimum: u32,
    /// Best alignment and size, in bytes.
    pub preferred: u32,
    /// Largest payload in bytes.
    pub maximum: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Trim works.
    pub can_discard: bool,
    /// The medium spins.
    pub rotational: bool,
}

impl Offer {
    /// From the export's geometry, under `name` if there is one.
    #[must_use]
    pub fn new(geometry: &Geometry, name: Option<&str>) -> Self {
        let minimum = floor_power_of_two(geometry.min_io).clamp(1, 1 << 16);
        let preferred = floor_power_of_two(geometry.preferred_io).clamp(minimum.max(512), PAYLOAD_MAX);
        let maximum = geometry.max_io.clamp(preferred, PAYLOAD_MAX.max(preferred));
        Self {
            name: shortened(name.unwrap_or(&geometry.name)),
            description: shortened(&geometry.description),
            size: geometry.size - geometry.size % u64::from(minimum),
            minimum,
            preferred,
            maximum: maximum - maximum % minimum,
            read_only: geometry.read_only,
            can_discard: geometry.can_discard && !geometry.read_only,
            rotational: geometry.rotational,
        }
    }

    /// Does a client that asks for `name` mean this export?
    #[must_use]
    pub fn answers_to(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }

    /// Transmission flags. Several connections are always fine: there is one volume behind them all, and a flush on one
    /// covers what any of them wrote.
    #[must_use]
    pub fn flags(&self, style: Style) -> u16 {
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::SEND_WRITE_ZEROES
            | flag::SEND_FAST_ZERO
            | flag::SEND_CACHE
            | flag::CAN_MULTI_CONN;
        for (wanted, bit) in [
            (self.read_only, flag::READ_ONLY),
            (self.rotational, flag::ROTATIONAL),
            (self.can_discard, flag::SEND_TRIM),
            (style != Style::Simple, flag::SEND_DF),
        ] {
            if wanted {
                flags |= bit;
            }
        }
        flags
    }
}

fn floor_power_of_two(n: u32) -> u32 {
    n.checked_ilog2().map_or(1, |bits| 1 << bits)
}

/// The protocol's strings end at [`STRING_MAX`] bytes.
fn shortened(text: &str) -> String {
    let mut end = text.len().min(STRING_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry {
            size: 1 << 20,
            min_io: 512,
            preferred_io: 4096,
            max_io: 1 << 20,
            read_only: false,
            can_discard: true,
            rotational: false,
            name: "v".into(),
            description: String::new(),
        }
    }

    #[test]
    fn odd_geometry_is_made_legal() {
        let odd = Geometry { size: 1_000_001, min_io: 3000, preferred_io: 0, max_io: 0, ..geometry() };
        let offer = Offer::new(&odd, None);
        assert_eq!((offer.minimum, offer.preferred, offer.maximum), (2048, 2048, 2048));
        assert_eq!(offer.size, 999_424);
        let huge = Geometry { min_io: u32::MAX, preferred_io: u32::MAX, max_io: u32::MAX, ..geometry() };
        let offer = Offer::new(&huge, None);
        assert_eq!((offer.minimum, offer.preferred, offer.maximum), (65536, PAYLOAD_MAX, PAYLOAD_MAX));
    }

    #[test]
    fn flags_follow_the_geometry() {
        let plain = Offer::new(&geometry(), None).flags(Style::Simple);
        assert_eq!(plain & (flag::READ_ONLY | flag::SEND_DF | flag::ROTATIONAL), 0);
        assert_ne!(plain & flag::SEND_TRIM, 0);
        let read_only = Geometry { read_only: true, ..geometry() };
        let flags = Offer::new(&read_only, None).flags(Style::Extended);
        assert_eq!(
            flags & (flag::READ_ONLY | flag::SEND_DF | flag::SEND_TRIM),
            flag::READ_ONLY | flag::SEND_DF
        );
    }

    #[test]
    fn a_name_given_wins_and_the_empty_name_is_always_known() {
        let offer = Offer::new(&geometry(), Some("other"));
        assert!(offer.answers_to(b"") && offer.answers_to(b"other") && !offer.answers_to(b"v"));
        assert_eq!(Offer::new(&geometry(), Some(&"ä".repeat(3000))).name.len(), STRING_MAX);
    }
}
