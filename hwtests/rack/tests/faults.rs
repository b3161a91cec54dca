//! Disks that fail, by the kernel's own means (dm-error and dm-flakey, on Debian's kernel in a
//! machine): the sector is named, nothing is claimed, nothing boots, and on a sound disk the next
//! run makes the image whole.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::OnceLock,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use images::{
    Store,
    import::{Options, import_stream},
};
use libtest_mimic::{Arguments, Failed, Trial};
use rack::{
    artefacts::Programs,
    hardware::Hardware,
    kernel::{self, Kernel},
    played::{Played, tell},
};

type Story = (&'static str, fn(&Disk) -> Result<()>);

const STORIES: [Story; 4] = [
    ("a_disk_that_takes_no_writes_is_named", unwritable),
    ("a_sector_that_cannot_be_read_is_named_and_the_disk_stays_as_it_is", unreadable),
    ("a_disk_that_drops_what_is_written_is_found_out", forgetful),
    ("a_disk_that_gives_other_bytes_is_found_out", lying),
];

/// A machine, emulated on busy cores.
const PATIENCE: Duration = Duration::from_secs(600);
/// Length of the image and of the disk.
const SIZE: u64 = 24 << 20;
/// Where the fault is: eight sectors of 512 bytes.
const BAD: u64 = 9 << 11;
const LEN: u64 = 8;
/// Inside the machine.
const STORE: &str = "/store";
const RAW: &str = "/image.raw";

fn main() -> ExitCode {
    if Kernel::is_inside() {
        kernel::start_inside(play_all);
    }
    let arguments = Arguments::from_args();
    let trial = |(name, _): Story| Trial::test(name, move || outcome(name).map_err(Failed::from));
    libtest_mimic::run(&arguments, STORIES.into_iter().map(trial).collect()).exit_code()
}

fn outcome(name: &str) -> Result<(), String> {
    static PLAYED: OnceLock<Result<Played, String>> = OnceLock::new();
    let played = PLAYED.get_or_init(|| play_in_machine().map_err(|error| format!("{error:#}")));
    let played = played.as_ref().map_err(Clone::clone)?;
    played.outcome(name).map_err(|error| format!("{error:#}"))
}

/// Noise with a boot sector, and never the same byte twice where it matters.
fn image() -> Vec<u8> {
    let mut state = 4711_u64;
    let word = |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state ^ (state >> 29)).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..SIZE / 8).flat_map(word).collect();
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

fn play_in_machine() -> Result<Played> {
    let agent = Programs::agent()?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let place = folder.path().join("store");
    let raw = folder.path().join("image.raw");
    fs::write(&raw, image()).context("writing an image")?;
    import_stream(&Store::create(&place)?, &image()[..], &Options::new("image"))?;
    let mut files = vec![("bin/billet-agent".to_owned(), agent), (RAW[1..].to_owned(), raw)];
    gather(&place, &STORE[1..], &mut files)?;
    let files: Vec<_> = files.iter().map(|(name, path)| (name.as_str(), path.clone())).collect();
    let machine = Kernel {
        modules: &["loop", "dm_mod", "dm_flakey"],
        programs: &[("dmsetup", "dmsetup")],
        files: &files,
    };
    Played::on(&machine, &Hardware::plain()?, folder.path(), "", PATIENCE)
}

fn gather(folder: &Path, inside: &str, files: &mut Vec<(String, PathBuf)>) -> Result<()> {
    for entry in fs::read_dir(folder).context("listing the store")? {
        let path = entry.context("listing the store")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match path.is_dir() {
            true => gather(&path, &format!("{inside}/{name}"), files)?,
            false => files.push((format!("{inside}/{name}"), path)),
        }
    }
    Ok(())
}

/// Inside the machine.
fn play_all() -> Result<()> {
    for (name, play) in STORIES {
        tell(name, &Disk::new().and_then(|disk| play(&disk)));
    }
    Ok(())
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).env("PATH", "/bin").output();
    let output = output.with_context(|| format!("starting {program}"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match output.status.success() {
        true => Ok(text),
        false => bail!("{text}"),
    }
}

/// A disk of noise, and a device over it that has a fault.
struct Disk {
    device: String,
}

const FILE: &str = "/tmp/disk";
/// As the kernel calls the only device of the mapper: there is no udev that would name it.
const FAULTY: &str = "/dev/dm-0";

impl Disk {
    fn new() -> Result<Self> {
        let other: Vec<u8> = image().into_iter().map(|byte| byte ^ 0x3c).collect();
        fs::write(FILE, other).context("writing a disk")?;
        let device = run("/bin/busybox", &["losetup", "-f"])?;
        run("/bin/busybox", &["losetup", &device, FILE])?;
        Ok(Disk { device })
    }

    /// Between two sound parts: `fault` is a target of the device mapper and its arguments.
    fn with_fault(&self, fault: &str) -> Result<()> {
        let (device, rest) = (&self.device, BAD + LEN);
        let after = SIZE / 512 - rest;
        let table = format!(
            "0 {BAD} linear {device} 0\n{BAD} {LEN} {fault}\n{rest} {after} linear {device} {rest}\n"
        );
        fs::write("/tmp/table", table).context("writing a table")?;
        run("dmsetup", &["create", "faulty", "--noudevsync", "--noudevrules", "/tmp/table"])
            .map(drop)
            .context("making a device with a fault")
    }

    /// A flakey target that is always down, with this habit.
    fn flakey(&self, habit: &str) -> Result<()> {
        self.with_fault(&format!("flakey {} {BAD} 0 60 {habit}", self.device))
    }

    fn write(&self, to: &str) -> Result<String> {
        run("/bin/billet-agent", &["write", "--image", &format!("{STORE}#image"), "--to", to])
    }

    /// What it says when it fails on the faulty device, which it must.
    fn refused(&self) -> Result<String> {
        match self.write(FAULTY) {
            Ok(said) => bail!("it claims to have written the image: {said}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    fn boots(&self) -> Result<bool> {
        Ok(fs::read(FILE).context("reading the disk")?[510..512] == [0x55, 0xaa])
    }

    /// Without the fault the next run ends it.
    fn gets_well(&self) -> Result<()> {
        run("dmsetup", &["remove", "--noudevsync", "faulty"])?;
        self.write(&self.device).context("on the sound disk")?;
        ensure!(fs::read(FILE)? == fs::read(RAW)?, "the disk is not the image");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("dmsetup", &["remove", "--noudevsync", "faulty"]);
        let _ = run("/bin/busybox", &["losetup", "-d", &self.device]);
    }
}

/// Whether it names a stretch that has the fault in it, of at most `most` bytes.
fn names(said: &str, verb: &str, most: u64) -> bool {
    let Some((_, rest)) = said.split_once(verb) else { return false };
    let numbers = rest.split(|letter: char| !letter.is_ascii_digit());
    let numbers: Vec<u64> = numbers.filter_map(|number| number.parse().ok()).collect();
    let [len, offset, ..] = numbers[..] else { return false };
    let (bad, end) = (BAD * 512, (BAD + LEN) * 512);
    len <= most && offset < end && bad < offset + len
}

/// A flakey target that refuses writes refuses the flush before the first of them already.
fn unwritable(disk: &Disk) -> Result<()> {
    disk.flakey("1 error_writes")?;
    let said = disk.refused()?;
    ensure!(said.contains("flushing") && said.contains(FAULTY), "{said}");
    ensure!(!disk.boots()?, "half an image boots");
    disk.gets_well()
}

fn unreadable(disk: &Disk) -> Result<()> {
    disk.write(&disk.device)?;
    let before = fs::read(FILE)?;
    disk.with_fault("error")?;
    let said = disk.refused()?;
    ensure!(names(&said, "reading ", LEN * 512), "{said}");
    ensure!(said.contains(&format!("(sector {BAD})")), "{said}");
    ensure!(fs::read(FILE)? == before, "a disk that was the image was changed");
    disk.gets_well()
}

fn forgetful(disk: &Disk) -> Result<()> {
    disk.flakey("1 drop_writes")?;
    let said = disk.refused()?;
    ensure!(names(&said, "reading back ", LEN * 512), "{said}");
    ensure!(said.contains(&format!("(sector {BAD})")), "{said}");
    ensure!(!disk.boots()?, "half an image boots");
    disk.gets_well()
}

fn lying(disk: &Disk) -> Result<()> {
    // The first byte of what is written comes to the disk as another one.
    disk.flakey("5 corrupt_bio_byte 1 w 1 0")?;
    let said = disk.refused()?;
    ensure!(names(&said, "reading back ", 512), "{said}");
    ensure!(said.contains(&format!("(sector {BAD})")), "{said}");
    ensure!(!disk.boots()?, "half an image boots");
    disk.gets_well()
}
