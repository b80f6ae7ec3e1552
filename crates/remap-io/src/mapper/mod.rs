//! Device-mapper as dm-remap uses it: a mapped device of `linear` and `error` segments, loaded, suspended and resumed.
//!
//! Invariant: segments name devices by number, so that nothing is looked up in a file system while a device is suspended; and
//! what is loaded carries no request before [`DeviceMapper::resume`].

mod call;
mod control;
mod nodes;

use std::fmt;

pub use control::Control;
pub use nodes::{forget_node, settle_node};

/// Most bytes of a name, and of a UUID.
const NAME_MAX: usize = 127;
const UUID_MAX: usize = 128;
/// Most segments of a table: newer kernels take no more.
pub const MAX_SEGMENTS: usize = 1 << 20;

/// Number of a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// Its driver.
    pub major: u32,
    /// Which of the driver's.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl std::str::FromStr for DeviceNumber {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.trim().split_once(':').ok_or(())?;
        let number = |text: &str| text.parse().map_err(|_| ());
        Ok(Self { major: number(major)?, minor: number(minor)? })
    }
}

/// What a segment does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its requests go to `device`, from this sector on.
    Linear {
        /// Where to.
        device: DeviceNumber,
        /// First sector there.
        sector: u64,
    },
    /// Its requests fail.
    Error,
    /// Something that we do not load: target type and arguments.
    Other(String),
}

/// A stretch of a mapped device, in sectors of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First sector.
    pub start: u64,
    /// Length.
    pub sectors: u64,
    /// What it does.
    pub target: Target,
}

/// A mapped device as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its UUID; may be empty.
    pub uuid: String,
    /// Its number.
    pub number: DeviceNumber,
    /// Who has it open.
    pub open_count: u32,
    /// Requests wait.
    pub suspended: bool,
    /// It has a table that carries requests (or will, when it is resumed).
    pub live: bool,
    /// A table is loaded that the next resume takes into service.
    pub loaded: bool,
    /// Writes are refused.
    pub read_only: bool,
}

/// Why device-mapper did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapperError {
    /// No device-mapper.
    #[error(
        "/dev/mapper/control: is not there: load the kernel module dm-mod (modprobe dm-mod; in a container: give it the device), or use \
         'dm-remap serve', which needs none"
    )]
    NoControl,
    /// Not root.
    #[error("/dev/mapper/control: permission denied: run as root (in a container: allow the device)")]
    NoAccess,
    /// The kernel's interface is another one.
    #[error("device-mapper has interface version {0}.{1}.{2}; 4.0.0 or a later 4 is needed")]
    Version(u32, u32, u32),
    /// It cannot be called so.
    #[error("'{name}' cannot be the name of a mapped device: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// There is none.
    #[error("{0}: there is no mapped device of this name")]
    NotFound(String),
    /// Name or UUID is taken.
    #[error("{0}: a mapped device of this name, or of this volume, exists already (dmsetup info)")]
    Exists(String),
    /// It is open, or a device of its table is somebody else's.
    #[error("{name}: {action}: in use")]
    Busy {
        /// The mapped device.
        name: String,
        /// What was asked.
        action: &'static str,
    },
    /// The table is too long.
    #[error("the table has {0} segments; the kernel takes {MAX_SEGMENTS}")]
    TooMany(usize),
    /// The kernel said something that we do not understand.
    #[error("{0}: device-mapper gave an answer that makes no sense")]
    Nonsense(String),
    /// Anything else.
    #[error("{name}: {action}: {source} (dmesg says more)")]
    Refused {
        /// The mapped device.
        name: String,
        /// What was asked.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The device-mapper of a kernel, or of a test.
pub trait DeviceMapper: Send {
    /// The mapped device of this name, if there is one.
    ///
    /// # Errors
    /// [`MapperError`].
    fn find(&mut self, name: &str) -> Result<Option<Mapped>, MapperError>;

    /// Makes one without a table.
    ///
    /// # Errors
    /// [`MapperError`].
    fn create(&mut self, name: &str, uuid: &str) -> Result<(), MapperError>;

    /// Loads a table, in place of one that was loaded and not resumed.
    ///
    /// # Errors
    /// [`MapperError`]; nothing is loaded then but what was.
    fn load(&mut self, name: &str, table: &[Segment], read_only: bool) -> Result<(), MapperError>;

    /// Drops a table that was loaded and not resumed.
    ///
    /// # Errors
    /// [`MapperError`].
    fn clear(&mut self, name: &str) -> Result<(), MapperError>;

    /// Waits until no request is in flight; from then on they wait.
    ///
    /// # Errors
    /// [`MapperError`]; requests go on then.
    fn suspend(&mut self, name: &str) -> Result<(), MapperError>;

    /// Takes a loaded table into service, if there is one, and lets requests go on.
    ///
    /// # Errors
    /// [`MapperError`].
    fn resume(&mut self, name: &str) -> Result<(), MapperError>;

    /// The table in service.
    ///
    /// # Errors
    /// [`MapperError`].
    fn table(&mut self, name: &str) -> Result<Vec<Segment>, MapperError>;

    /// Takes it away.
    ///
    /// # Errors
    /// [`MapperError`]; [`MapperError::Busy`] while somebody has it open.
    fn remove(&mut self, name: &str) -> Result<(), MapperError>;
}

/// Can a mapped device be called so, without any program's escapes?
///
/// # Errors
/// [`MapperError::Name`].
pub fn check_name(name: &str) -> Result<(), MapperError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
    let reason = match name {
        "" => "it is empty",
        "." | ".." | "control" => "it means something else in /dev/mapper",
        name if name.len() > NAME_MAX => "it has more than 127 bytes",
        name if !name.chars().all(plain) => "only letters, digits and # + - . : = @ _ will do",
        _ => return Ok(()),
    };
    Err(MapperError::Name { name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["sdb", "my.disk-1_2+3:4=5@6#7", &"x".repeat(127)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "control", "a/b", "a b", "\u{fc}", &"x".repeat(128)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_device_mapper_both_ways_out_are_told() {
        let text = MapperError::NoControl.to_string();
        assert!(text.contains("modprobe dm-mod") && text.contains("'dm-remap serve'"), "{text}");
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let number = DeviceNumber { major: 259, minor: 1_048_575 };
        assert_eq!(number.to_string().parse(), Ok(number));
        for bad in ["", "8", "8:", ":1", "8:x", "-1:2"] {
            assert!(bad.parse::<DeviceNumber>().is_err(), "{bad}");
        }
    }
}
