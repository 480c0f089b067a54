use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;

/// A process that has something open, and says so on its first line; ends with this value.
struct Opener(Child);

impl Opener {
    fn new(script: &str, dir: &Path) -> Self {
        use std::io::BufRead as _;
        let mut command = Command::new("sh");
        // `read` waits without a child of its own that would have the same files open.
        command.args(["-c", &format!("{script}; echo ready; read end")]).current_dir("/").env("DIR", dir);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn volume() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("v")).unwrap();
    fs::write(dir.path().join("v/file"), "data").unwrap();
    fs::write(dir.path().join("beside"), "data").unwrap();
    dir
}

fn told(place: &Path, counts: Counts) -> Vec<String> {
    let found = users(&[place.to_owned()], counts, &BTreeSet::new()).unwrap();
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn writers_are_told_from_readers_and_from_neighbours() {
    let dir = volume();
    let (place, file) = (dir.path().join("v"), dir.path().join("v/file"));
    for (script, says) in [
        ("exec 3>>$DIR/beside; cd /tmp", None),
        ("exec 3<$DIR/v/file", Some((false, format!("{} open", file.display())))),
        ("exec 3>>$DIR/v/file", Some((true, format!("{} open for writing", file.display())))),
        ("exec 3<>$DIR/v/file", Some((true, format!("{} open for writing", file.display())))),
        ("cd $DIR/v", Some((false, format!("{} as its working folder", place.display())))),
        ("exec 3>$DIR/v/gone; rm $DIR/v/gone", None),
    ] {
        let opener = Opener::new(script, dir.path());
        let all = told(&place, Counts::Everybody);
        let expected: Vec<String> =
            says.iter().map(|(_, what)| format!("sh (pid {}) has {what}", opener.0.id())).collect();
        assert_eq!(all, expected, "{script}");
        let writes = says.is_some_and(|(writes, _)| writes);
        assert_eq!(told(&place, Counts::Writers).len(), usize::from(writes), "{script}");
        assert_eq!(told(&place, Counts::WritingProcesses).len(), usize::from(writes), "{script}");
        let but = BTreeSet::from([opener.0.id()]);
        assert_eq!(users(std::slice::from_ref(&place), Counts::Everybody, &but).unwrap(), []);
    }
    // Ours do not count, and what is not there is open to nobody.
    let _own = fs::OpenOptions::new().append(true).open(&file).unwrap();
    assert_eq!(told(&place, Counts::Everybody), Vec::<String>::new());
    assert_eq!(told(&dir.path().join("nowhere"), Counts::Everybody), Vec::<String>::new());
}

#[test]
fn an_image_is_known_by_its_file() {
    let dir = volume();
    let image = dir.path().join("v/file");
    let _writer = Opener::new("ln $DIR/v/file $DIR/v/link; exec 3>>$DIR/v/link", dir.path());
    assert_eq!(told(&image, Counts::WritingProcesses).len(), 1);
    assert_eq!(told(&dir.path().join("beside"), Counts::Everybody), Vec::<String>::new());
}

#[test]
fn a_path_alone_is_nothing_that_is_open() {
    let dir = volume();
    let opened =
        fs::OpenOptions::new().read(true).custom_flags(0o10_000_000).open(dir.path().join("v/file")).unwrap();
    let mut child = Command::new("sleep").arg("600").stdin(Stdio::from(opened)).spawn().unwrap();
    let found = told(&dir.path().join("v"), Counts::Everybody);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(found, Vec::<String>::new());
}

/// A container has the volume mounted somewhere else, in a mount namespace of its own.
#[test]
fn a_writer_behind_another_mount_is_found() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tried: only root may mount");
        return;
    }
    let dir = volume();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    let script = "exec unshare -m sh -c 'mount --bind $DIR/v $DIR/elsewhere && exec 3>>$DIR/elsewhere/file && \
                  echo ready; read end'";
    let _writer = Opener::new(script, dir.path());
    let found = told(&dir.path().join("v"), Counts::Writers);
    assert!(
        matches!(found.as_slice(), [one] if one.ends_with("elsewhere/file open for writing")),
        "{found:?}"
    );
    assert_eq!(told(&dir.path().join("elsewhere"), Counts::Writers), Vec::<String>::new());
}

/// A loop device that can be written, also where nobody has it mounted.
#[test]
fn a_loop_device_is_a_writer() {
    let dir = volume();
    let image = dir.path().join("v/file");
    fs::File::options().write(true).open(&image).unwrap().set_len(1 << 20).unwrap();
    let losetup = |args: &[&str]| Command::new("losetup").args(args).arg(&image).output().unwrap();
    let made = losetup(&["--find", "--show"]);
    if !made.status.success() {
        eprintln!("not tried: {}", String::from_utf8_lossy(&made.stderr));
        return;
    }
    let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let (of_image, of_tree) = (told(&image, Counts::Writers), told(&dir.path().join("v"), Counts::Writers));
    assert!(Command::new("losetup").args(["-d", &device]).status().unwrap().success());
    let expected =
        format!("the loop device {} is made of {}", device.trim_start_matches("/dev/"), image.display());
    assert_eq!((of_image, of_tree), (vec![expected.clone()], vec![expected]));
}
