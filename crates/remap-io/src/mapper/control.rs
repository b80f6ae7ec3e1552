//! The kernel's device-mapper, behind `/dev/mapper/control`.
//!
//! Invariant: a call that was interrupted by a signal is made again; what ends is either done or refused.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::call::{
    BUFFER_FULL, Call, Command, LIVE, LOADED, NOFLUSH, READ_ONLY, SKIP_LOCKFS, STATUS_TABLE, SUSPEND,
    UDEV_PRIMARY,
};
use super::{DeviceMapper, MAX_SEGMENTS, Mapped, MapperError, Segment, check_name};

/// Room for the first try to read a table, in bytes.
const TABLE_ROOM: usize = 64 << 10;

/// `/dev/mapper/control`.
#[derive(Debug)]
pub struct Control(File);

impl Control {
    /// Opens it.
    ///
    /// # Errors
    /// There is none, it may not be used, or it speaks another version.
    pub fn open() -> Result<Self, MapperError> {
        let path = "/dev/mapper/control";
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => MapperError::NoControl,
                std::io::ErrorKind::PermissionDenied => MapperError::NoAccess,
                // The node is there, the module is not.
                _ if error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
                    || error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) =>
                {
                    MapperError::NoControl
                }
                _ => MapperError::Refused { name: path.to_owned(), action: "opening it", source: error },
            })?;
        let control = Self(file);
        let answer =
            control.make("device-mapper", "asking for its version", Command::Version, Call::of("", 0))?;
        match answer.version() {
            (4, ..) => Ok(control),
            (major, minor, patch) => Err(MapperError::Version(major, minor, patch)),
        }
    }

    fn make(
        &self,
        name: &str,
        action: &'static str,
        command: Command,
        call: Call,
    ) -> Result<Call, MapperError> {
        loop {
            let errno = match call.clone().make(self.0.as_fd(), command) {
                Ok(answer) => return Ok(answer),
                Err(Errno::INTR) => continue,
                Err(errno) => errno,
            };
            let name = name.to_owned();
            return Err(match errno {
                Errno::NXIO => MapperError::NotFound(name),
                Errno::BUSY if command == Command::Create => MapperError::Exists(name),
                Errno::BUSY => MapperError::Busy { name, action },
                Errno::ACCESS | Errno::PERM => MapperError::NoAccess,
                errno => MapperError::Refused { name, action, source: errno.into() },
            });
        }
    }

    fn plain(
        &self,
        name: &str,
        action: &'static str,
        command: Command,
        flags: u32,
    ) -> Result<Call, MapperError> {
        check_name(name)?;
        self.make(name, action, command, Call::of(name, flags))
    }
}

impl DeviceMapper for Control {
    fn find(&mut self, name: &str) -> Result<Option<Mapped>, MapperError> {
        let answer = match self.plain(name, "looking for it", Command::Status, 0) {
            Ok(answer) => answer,
            Err(MapperError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let has = |flag| answer.flags() & flag != 0;
        Ok(Some(Mapped {
            uuid: answer.uuid(),
            number: answer.number(),
            open_count: answer.open_count(),
            suspended: has(SUSPEND),
            live: has(LIVE),
            loaded: has(LOADED),
            read_only: has(READ_ONLY),
        }))
    }

    fn create(&mut self, name: &str, uuid: &str) -> Result<(), MapperError> {
        check_name(name)?;
        let call = Call::of(name, 0).with_uuid(uuid);
        self.make(name, "making it", Command::Create, call).map(drop)
    }

    fn load(&mut self, name: &str, table: &[Segment], read_only: bool) -> Result<(), MapperError> {
        check_name(name)?;
        if table.len() > MAX_SEGMENTS {
            return Err(MapperError::TooMany(table.len()));
        }
        let call = Call::of(name, if read_only { READ_ONLY } else { 0 }).with_table(table);
        self.make(name, "loading a table", Command::Load, call).map(drop)
    }

    fn clear(&mut self, name: &str) -> Result<(), MapperError> {
        self.plain(name, "dropping a loaded table", Command::Clear, 0).map(drop)
    }

    fn suspend(&mut self, name: &str) -> Result<(), MapperError> {
        self.plain(name, "suspending it", Command::Suspend, SUSPEND | SKIP_LOCKFS).map(drop)
    }

    fn resume(&mut self, name: &str) -> Result<(), MapperError> {
        check_name(name)?;
        // udev is told by whom a device was set up when it first goes into service, and else that it changed.
        let fresh = self.find(name)?.is_some_and(|mapped| !mapped.live);
        let call = Call::of(name, SKIP_LOCKFS).with_event(if fresh { UDEV_PRIMARY } else { 0 });
        self.make(name, "resuming it", Command::Suspend, call).map(drop)
    }

    fn table(&mut self, name: &str) -> Result<Vec<Segment>, MapperError> {
        check_name(name)?;
        let mut room = TABLE_ROOM;
        loop {
            let call = Call::of(name, STATUS_TABLE | NOFLUSH).with_room(room);
            let answer = self.make(name, "reading its table", Command::Table, call)?;
            if answer.flags() & BUFFER_FULL == 0 {
                return answer.table().ok_or_else(|| MapperError::Nonsense(name.to_owned()));
            }
            room *= 4;
        }
    }

    fn remove(&mut self, name: &str) -> Result<(), MapperError> {
        self.plain(name, "removing it", Command::Remove, 0).map(drop)
    }
}
