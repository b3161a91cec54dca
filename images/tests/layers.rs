//! Containers' images and tar archives, laid out and compared, file by file, with what umoci and
//! GNU tar make of them.
#![expect(clippy::unwrap_used, reason = "a test may end where it stands")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use images::{
    Digest,
    foreign::flatten,
    format::{Format, Unfit},
};

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn shell(folder: &Path, script: &str) {
    run(Command::new("sh").args(["-euc", script]).current_dir(folder));
}

/// Every file of a folder with all that can be told of it.
fn listing(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut list = BTreeMap::new();
    let mut links: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap();
        let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.strip_prefix(root).unwrap().to_owned();
            list.insert(name.clone(), String::new());
            let about = path.symlink_metadata().unwrap();
            if about.is_dir() {
                folders.push(path.clone());
            }
            // Of hard links, the first in order stands for all.
            if !about.is_dir() && about.nlink() > 1 {
                let first = links.entry(about.ino()).or_insert_with(|| name.clone());
                *first = first.clone().min(name);
            }
        }
    }
    for (name, text) in &mut list {
        let path = root.join(name);
        let about = path.symlink_metadata().unwrap();
        let kind = about.file_type();
        let what = if kind.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_file() {
            format!("{} {}", about.len(), Digest::of(&fs::read(&path).unwrap()))
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {} {}", kind.is_block_device(), about.rdev())
        } else {
            format!("folder {} fifo {}", kind.is_dir(), kind.is_fifo())
        };
        let link = links.get(&about.ino()).map(|first| first.display().to_string());
        let mut getfattr = Command::new("getfattr");
        getfattr
            .args(["--no-dereference", "--absolute-names", "-d", "-m", "-", "-e", "hex"])
            .arg(&path);
        let attributes = String::from_utf8(run(&mut getfattr)).unwrap();
        let attributes: Vec<&str> =
            attributes.lines().filter(|line| !line.starts_with('#')).collect();
        let (mode, uid, gid) = (about.mode(), about.uid(), about.gid());
        // Whoever wrote last into the root settled its time.
        let time = about.mtime();
        *text = format!("{mode:o} {uid}:{gid} @{time} {what} {link:?} {attributes:?}");
    }
    list
}

fn compare(ours: &Path, theirs: &Path) {
    let (ours, theirs) = (listing(ours), listing(theirs));
    for (name, text) in &theirs {
        assert_eq!(ours.get(name), Some(text), "{}", name.display());
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 15, "{ours:?}");
}

fn unpack(folder: &Path, from: &Path) -> PathBuf {
    let (archive, to) = (folder.join("flat.tar"), folder.join("ours"));
    let _ = fs::remove_dir_all(&to);
    fs::create_dir(&to).unwrap();
    flatten(from, None, fs::File::create(&archive).unwrap()).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--numeric-owner", "--same-permissions", "--xattrs"]);
    tar.args(["--xattrs-include=*", "--delay-directory-restore", "--file"]).arg(&archive);
    run(tar.arg("--directory").arg(&to));
    to
}

/// Three layers with all that layers can do, as an OCI layout `image` that umoci made.
const IMAGE: &str = r#"
umask 022
mkdir -p 1/usr/bin 1/usr/lib 1/etc/conf.d 1/var/cache/deep 1/opt/all 1/dev
ln -s usr/lib 1/lib; ln -s usr/bin 1/bin; ln -s ../usr 1/etc/usr
printf 'one\n' >1/usr/bin/tool; chmod 4755 1/usr/bin/tool
ln 1/usr/bin/tool 1/usr/bin/other-name; ln 1/usr/bin/tool 1/etc/tool
setfattr -n security.capability -v 0x0100000202040a0000000000000000000000000a 1/usr/bin/tool
setfattr -n user.note -v 0x610a3131206b3d760a00ff 1/etc/conf.d
for n in a b c; do echo $n >1/etc/conf.d/$n; echo $n >1/opt/all/$n; done
echo deep >1/var/cache/deep/file; mkfifo -m 600 1/var/fifo; mknod 1/dev/null c 1 3
chown -R 1000:2000 1/opt; chown 3000000:65534 1/etc/conf.d/c; chmod 1777 1/var/cache
name=$(printf 'long-%.0s' $(seq 30)); mkdir 1/var/$name; echo x >1/var/$name/$name
ln -s /etc/$name/$name/$name 1/var/$name/link
head -c 300000 /dev/urandom >1/usr/lib/large
find 1 -exec touch -h -d @1500000000 {} +

mkdir -p 2/etc/conf.d 2/opt/all 2/var 2/usr/bin
echo new >2/etc/conf.d/b; touch 2/etc/conf.d/.wh.a; touch 2/opt/all/.wh..wh..opq; echo d >2/opt/all/d
touch 2/var/.wh.cache; echo replaced >2/usr/bin/tool
find 2 -exec touch -h -d @1600000000 {} +

mkdir -p 3/var/cache 3/usr/lib/large 3/etc; echo again >3/var/cache/new; echo in >3/usr/lib/large/in
ln -s conf.d/b 3/etc/b; rmdir 3/etc && mkdir 3/etc; echo e >3/etc/empty-name
find 3 -exec touch -h -d @1700000000 {} +

umoci init --layout image
umoci new --image image:latest
n=0
for layer in 1 2 3; do
    tar --create --format=posix --pax-option=delete=atime,delete=ctime --xattrs --xattrs-include='*' \
        --sort=name --directory $layer --file $layer.tar .
    umoci raw add-layer --image image:latest $layer.tar
done
umoci raw unpack --image image:latest theirs
"#;

#[test]
#[ignore = "files of several owners and devices need root: make devices"]
fn a_containers_image_is_what_umoci_makes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(folder, IMAGE);
    let image = folder.join("image");
    assert_eq!(Format::detect(&image).unwrap(), Format::Oci);
    compare(&unpack(folder, &image), &folder.join("theirs"));

    // As one archive, by tar and by skopeo; and with layers compressed by zstd.
    shell(folder, "tar --create --file image.tar --directory image .");
    shell(folder, "skopeo --insecure-policy copy -q oci:image:latest oci-archive:skopeo.tar:x");
    shell(
        folder,
        "skopeo --insecure-policy copy -q --dest-compress-format zstd oci:image:latest oci:zstd:x",
    );
    for name in ["image.tar", "skopeo.tar", "zstd"] {
        assert_eq!(Format::detect(&folder.join(name)).unwrap(), Format::Oci, "{name}");
        compare(&unpack(folder, &folder.join(name)), &folder.join("theirs"));
    }
}

#[test]
#[ignore = "files of several owners and devices need root: make devices"]
fn a_damaged_or_foreign_image_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(folder, IMAGE);
    let image = folder.join("image");
    let refused = |path: &Path| format!("{:#}", flatten(path, None, std::io::sink()).unwrap_err());
    shell(folder, "cp -a image arm; umoci config --image arm:latest --architecture arm64");
    assert!(refused(&folder.join("arm")).contains("arm64"), "{}", refused(&folder.join("arm")));
    shell(folder, "cp -a image two; umoci tag --image two:latest other");
    flatten(&folder.join("two"), None, std::io::sink()).unwrap();
    shell(folder, "umoci config --image two:other --author somebody");
    assert!(refused(&folder.join("two")).contains("several images (latest, other)"));
    shell(
        folder,
        "skopeo --insecure-policy copy -q oci:image:latest docker-archive:docker.tar:x:y",
    );
    assert!(refused(&folder.join("docker.tar")).contains("skopeo copy docker-archive"));

    let blobs = fs::read_dir(image.join("blobs/sha256")).unwrap();
    let mut blobs: Vec<PathBuf> = blobs.map(|entry| entry.unwrap().path()).collect();
    blobs.sort_by_key(|path| path.metadata().unwrap().len());
    let largest = blobs.pop().unwrap();
    let bytes = fs::read(&largest).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    for bytes in [&damaged[..], &bytes[..bytes.len() - 9], b""] {
        fs::write(&largest, bytes).unwrap();
        let said = refused(&image);
        assert!(said.contains("reading layer 1 of 3") || said.contains("bytes, not"), "{said}");
    }
    fs::remove_file(&largest).unwrap();
    assert!(refused(&image).contains("reading"), "{}", refused(&image));
}

#[test]
#[ignore = "files of several owners and devices need root: make devices"]
fn an_archive_is_what_tar_makes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    shell(folder, IMAGE);
    // In an archive that is no layer, nothing is a whiteout.
    shell(folder, "touch 1/etc/.wh.conf.d; mkdir tars");
    for (name, how) in [
        ("posix", "--format=posix --xattrs --xattrs-include='*'"),
        ("zstd", "--format=posix --xattrs --xattrs-include='*' --zstd"),
        ("xz", "--format=posix --xattrs --xattrs-include='*' --xz"),
        ("gzip", "--format=posix --xattrs --xattrs-include='*' --gzip"),
        ("gnu", "--format=gnu"),
    ] {
        shell(folder, &format!("tar --create {how} --directory 1 --file tars/{name} ."));
        let unpack_theirs = "tar --extract --numeric-owner --same-permissions --xattrs \
             --xattrs-include='*' --directory theirs --file";
        shell(folder, &format!("rm -rf theirs; mkdir theirs; {unpack_theirs} tars/{name}"));
        compare(&unpack(folder, &folder.join("tars").join(name)), &folder.join("theirs"));
        let bytes = fs::read(folder.join("tars").join(name)).unwrap();
        let cut = folder.join("cut");
        fs::write(&cut, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let error = flatten(&cut, None, std::io::sink()).unwrap_err();
        assert!(error.is::<Unfit>(), "{name}: {error:#}");
    }
    shell(
        folder,
        "truncate -s 1M 1/hole; tar --create --sparse --directory 1 --file sparse ./hole",
    );
    let error = flatten(&folder.join("sparse"), None, std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("without --sparse"), "{error:#}");
    fs::write(folder.join("disk"), [0; 4096]).unwrap();
    let error = flatten(&folder.join("disk"), None, std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("is a disk (raw)"), "{error:#}");
}
