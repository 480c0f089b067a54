//! A witness: a third process that both sites reach.

use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::cli::program;
use crate::ports::free_tcp_port;
use crate::{eventually, eventually_some};

/// A running `backstay witness`.
#[derive(Debug)]
pub struct Witness {
    home: TempDir,
    listen: SocketAddr,
    process: Option<Child>,
    url: String,
}

impl Witness {
    /// Makes one and starts it.
    pub fn start() -> Witness {
        let home = tempfile::Builder::new().prefix("backstay-witness-").tempdir().unwrap();
        let mut witness = Witness {
            home,
            listen: SocketAddr::from(([127, 0, 0, 1], free_tcp_port())),
            process: None,
            url: String::new(),
        };
        witness.serve();
        witness
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn serve(&mut self) {
        assert!(self.process.is_none(), "the witness is already running");
        let open = |name: &str| {
            let path = self.home.path().join(name);
            OpenOptions::new().create(true).write(true).truncate(true).open(path).unwrap()
        };
        let mut command = Command::new(program());
        command.arg("witness").arg("--dir").arg(self.home.path().join("witness"));
        command.arg("--listen").arg(self.listen.to_string());
        command.stdin(Stdio::null()).stdout(open("stdout")).stderr(open("stderr"));
        self.process = Some(command.spawn().unwrap());
        let deadline = Duration::from_secs(30);
        eventually("the witness listens", deadline, || TcpStream::connect(self.listen).is_ok());
        let home = self.home.path();
        self.url = eventually_some("the witness says where it is", deadline, || {
            let said = fs::read_to_string(home.join("stdout")).unwrap();
            said.lines()
                .find_map(|line| line.strip_prefix("url = "))
                .map(|url| url.trim_matches('"').to_owned())
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the witness is not running");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// What sites are to set as `witness.url`.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The part of it that the witness is known by.
    pub fn fingerprint(&self) -> String {
        self.url.rsplit_once('#').expect("a fingerprint").1.to_owned()
    }

    /// The file with its token.
    pub fn token(&self) -> PathBuf {
        self.home.path().join("witness/token")
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself; either way it is gone after this.
            drop(process.kill());
            drop(process.wait());
        }
        if std::thread::panicking() {
            eprintln!("--- {}", fs::read_to_string(self.home.path().join("stderr")).unwrap_or_default());
        }
    }
}
