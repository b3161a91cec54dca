//! A container's image becomes a disk, and the disk starts: in QEMU, by BIOS and by UEFI. It fetches
//! Debian's kernel and takes minutes, so it is run by `make system` only.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use images::recipe::{self, Options, Recipe};

fn shell(folder: &Path, script: &str) {
    let output = Command::new("sh").args(["-euc", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A system of busybox whose `init` says what it sees and ends.
const BOX: &str = r#"
mkdir -p 1/bin 1/sbin 1/etc 2/etc
cp /bin/busybox 1/bin/busybox
for name in sh mount ls uname cat poweroff stat; do ln -s busybox 1/bin/$name; done
printf 'old\n' >1/etc/removed; printf 'one\n' >1/etc/kept; chown 1234:5678 1/etc/kept
ln 1/etc/kept 1/etc/linked
setfattr -n security.capability -v 0x0100000202040a0000000000000000000000000a 1/etc/kept
: >2/etc/.wh.removed
cat >1/sbin/init <<'END'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sysfs /sys
echo "files $(ls -m /etc)" >/dev/console
echo "kept $(stat -c '%u:%g %h' /etc/kept)" >/dev/console
echo "modules $(ls /lib/modules) of $(uname -r)" >/dev/console
echo "root $(cat /proc/mounts | { while read d m t r; do [ $m != / ] || echo $t; done; })" >/dev/console
echo "the system has started" >/dev/console
poweroff -f
END
chmod 755 1/sbin/init
umoci init --layout image; umoci new --image image:box
for layer in 1 2; do
    tar --create --format=posix --xattrs --xattrs-include='*' --directory $layer --file $layer.tar .
    umoci raw add-layer --image image:box $layer.tar
done
"#;

/// What the disk's system says on its serial line.
fn start(folder: &Path, disk: &Path, firmware: &[&str]) -> String {
    let log = folder.join("console");
    let mut qemu = Command::new("qemu-system-x86_64");
    // Emulation only, as in the rack: nested KVM hangs where it is half there.
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand"]);
    qemu.args(["-m", "512", "-nodefaults", "-display", "none", "-device", "VGA"]);
    qemu.args(["-no-reboot", "-snapshot", "-serial", &format!("file:{}", log.display())]);
    qemu.arg("-drive").arg(format!("file={},format=raw,if=virtio", disk.display())).args(firmware);
    let mut qemu = qemu.stdin(Stdio::null()).spawn().unwrap();
    // It powers itself off; one that does not is ended, and what it said is the verdict.
    for _ in 0..600 {
        if qemu.try_wait().unwrap().is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(500));
    }
    let _ = qemu.kill();
    qemu.wait().unwrap();
    String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned()
}

/// What debugfs says about the disk's root file system.
fn debugfs(root: &Path, request: &str) -> String {
    let mut debugfs = Command::new("debugfs");
    debugfs.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").args(["-R", request]).arg(root);
    let output = debugfs.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "it fetches packages and takes minutes: make system"]
fn a_containers_image_becomes_a_disk_that_starts() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(folder, BOX);
    let from: Option<PathBuf> = Some(folder.join("image"));
    let options = Options { out: folder.join("out"), from, ..Options::default() };
    let recipe = Recipe::built_in("system").unwrap();
    let built = recipe::build(&recipe, &options, &mut |step| println!("{step}")).unwrap();
    assert!(built.boot.unwrap().kernel.starts_with("/boot/vmlinuz-"));

    // Past the table: BIOS boot, EFI system partition and seed.
    shell(
        folder,
        "dd if=out/system.raw of=root bs=1M skip=54 conv=sparse status=none; truncate -s -1M root",
    );
    let root = folder.join("root");
    let listing = debugfs(&root, "ls -l /etc");
    assert!(listing.contains("kept") && !listing.contains("removed"), "{listing}");
    let kept = debugfs(&root, "stat /etc/kept");
    assert!(kept.contains("User:  1234   Group:  5678") && kept.contains("Links: 2"), "{kept}");
    let capability = debugfs(&root, "ea_get -x /etc/kept security.capability");
    assert!(capability.replace(' ', "").contains("0100000202040a00"), "{capability}");
    shell(folder, "PATH=/usr/sbin:/sbin:$PATH e2fsck -fn root");

    let uefi = ["-drive", "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"];
    for firmware in [&[][..], &uefi] {
        let said = start(folder, &built.disk, firmware);
        for line in ["kept 1234:5678 2", "root ext4", "the system has started"] {
            assert!(said.contains(line), "`{line}` is not in:\n{said}");
        }
        let modules = said.lines().find_map(|line| line.split_once("modules ")).unwrap().1;
        let (there, running) = modules.trim().split_once(" of ").unwrap();
        assert_eq!(there, running);
    }
}
