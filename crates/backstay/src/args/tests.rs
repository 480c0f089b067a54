#![expect(clippy::panic, reason = "a test may fail by panicking")]

use clap::CommandFactory as _;
use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("backstay").chain(line.split_whitespace()))
}

fn good(line: &str) -> Command {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_form_of_the_contract_parses() {
    for line in [
        "init --site /s --name east",
        "init --site /s --name east --listen 127.0.0.1:7443",
        "serve --site /s",
        "serve --print-config --set limits.bandwidth=50Mbit/s --set log.level=debug",
        "pair key",
        "pair key --endpoint a:1 --endpoint b:2 --ttl 15m",
        "pair join bsk1_x",
        "pair join -",
        "pair list -o wide",
        "pair rotate west",
        "pair remove west",
        "plan apply -f a.yaml",
        "plan apply -f a.yaml b.yaml -f c",
        "plan apply -f -",
        "plan list -o yaml",
        "plan get shop",
        "plan delete shop",
        "plan suspend shop",
        "plan resume shop",
        "sync shop",
        "sync shop --no-wait -o json --site /s",
        "status",
        "status shop --watch",
        "restore-points shop -o json",
        "diff shop",
        "diff shop e1-000001",
        "diff shop e1-000001 e1-000002",
        "restore shop --to /tmp/x",
        "restore shop --restore-point e1-000001 --volume data --path a/b --to /tmp/x",
        "promote shop",
        "promote --all -o json",
        "promote shop --restore-point e1-000001 --dry-run --force --accept-partial",
        "verify",
        "verify shop --offline --repair",
        "gc",
        "gc --dry-run",
        "witness --dir /w",
        "witness --dir /w --listen 127.0.0.1:7445 --token-file /t",
        "catalog rebuild",
        "audit",
        "audit --since 2026-11-21T08:00:00Z",
        "audit --since 2h",
        "audit --verify",
        "crds",
        "completions bash",
        "demo",
        "demo --dir /tmp/x --keep",
    ] {
        good(line);
    }
}

#[test]
fn bad_usage_is_refused_with_2() {
    for line in [
        "",
        "frobnicate",
        "init --site /s",
        "init --name East",
        "init --name east --listen 7443",
        "serve --set limits",
        "pair",
        "pair key --ttl soon",
        "pair join",
        "plan apply",
        "sync",
        "sync -o xml shop",
        "sync ../etc",
        "diff shop e1-1",
        "restore shop",
        "restore shop --path a --to /x",
        "promote",
        "promote shop --all",
        "promote --all --restore-point e1-000001",
        "promote shop --restore-point yesterday",
        "catalog",
        "audit --since yesterday",
        "audit --since 2h --verify",
        "completions cmd",
        "switchover",
        "failback --force shop",
        "drill shop --clean --keep",
    ] {
        let error = parse(line).err().unwrap_or_else(|| panic!("{line:?} was taken"));
        // No command at all shows the help, also as a usage error.
        assert!(error.use_stderr() && error.exit_code() == 2, "{line:?}: {:?}", error.kind());
    }
    for line in ["--help", "promote --help", "--version"] {
        let kind = parse(line).err().map(|error| error.kind());
        assert!(matches!(kind, Some(ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)), "{line}");
    }
}

#[test]
fn every_command_and_argument_has_a_help_text() {
    fn check(command: &clap::Command, path: &str) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
        }
        command.get_subcommands().for_each(|inner| check(inner, &path));
    }
    check(&Cli::command(), "");
}

#[test]
fn since_is_a_moment_or_a_while_ago() {
    assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(Since::At(backstay_types::Time(1000))));
    assert_eq!("1d12h".parse(), Ok(Since::Ago(Span::from_secs(36 * 3600))));
    assert!("".parse::<Since>().is_err());
}
