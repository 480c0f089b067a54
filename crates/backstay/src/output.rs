//! Printing results: tables, JSON, YAML; sizes, times and lengths of time for people.

use std::io::{self, Write as _};

use backstay_types::{Class, Time};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For people, with more columns
    Wide,
    /// For programs: sizes in bytes, times RFC 3339 UTC, durations in seconds
    Json,
    /// As json, as YAML
    Yaml,
}

/// Prints `value` as the format asks; `table` renders it for people (`true` asks for more columns).
pub(crate) fn show<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(bool) -> String,
) -> Result<(), Failure> {
    print(&render(format, value, table)?)
}

/// `value` in the form the format asks for.
pub(crate) fn render<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(bool) -> String,
) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(table(false)),
        Format::Wide => Ok(table(true)),
        Format::Json => serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(Class::Bug, format!("print JSON: {error}"))),
        Format::Yaml => serde_saphyr::to_string(value)
            .map_err(|error| Failure::new(Class::Bug, format!("print YAML: {error}"))),
    }
}

/// Tells something beside the result, on standard error. Nobody may be listening there.
pub(crate) fn note(text: &str) {
    if let Err(error) = writeln!(io::stderr().lock(), "{text}") {
        tracing::debug!(%error, "a note was not written");
    }
}

/// Writes text and one newline at its end. A reader that has gone (`| head`) has seen what it wanted.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let text = text.trim_end_matches('\n');
    if text.is_empty() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Class::Transient, format!("write to standard output: {error}"))
                .hint("the command itself was carried out; check where its output goes"))
        }
        _ => Ok(()),
    }
}

/// A table as `kubectl` prints one: capital headings, no lines, two spaces between columns. Without rows, `empty`.
pub(crate) fn table<const N: usize>(
    empty: &str,
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings.map(str::to_uppercase));
    let mut count = 0_usize;
    for row in rows {
        count += 1;
        table.add_row(row);
    }
    if count == 0 {
        return empty.to_owned();
    }
    lay_out(table)
}

/// Names on the left, values on the right.
pub(crate) fn pairs(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for (name, value) in rows {
        table.add_row([format!("{name}:"), value]);
    }
    lay_out(table)
}

fn lay_out(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2)).set_cell_alignment(CellAlignment::Left);
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `1.4 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 6] = [
        ("EiB", 1 << 60),
        ("PiB", 1 << 50),
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    match UNITS.iter().find(|(_, unit)| count >= *unit) {
        // Tenths are cut, not rounded, so that 1023.96 KiB does not show as 1024.0 KiB.
        Some((name, unit)) => {
            let tenths = u128::from(count % unit) * 10 / u128::from(*unit);
            format!("{}.{tenths} {name}", count / unit)
        }
        None => format!("{count} B"),
    }
}

/// `1.4 GiB/s`; a rate that is not a number is none.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    // Above 16 EiB/s the count saturates; below one it is zero.
    let whole =
        std::time::Duration::try_from_secs_f64(bytes_per_second.max(0.0)).map_or(0, |exact| exact.as_secs());
    format!("{}/s", bytes(whole))
}

/// `85ms`, `1.2s`, `15m20s`, `2d3h`.
pub(crate) fn seconds(length: f64) -> String {
    let Ok(length) = std::time::Duration::try_from_secs_f64(length) else {
        return "-".to_owned();
    };
    let (secs, millis) = (length.as_secs(), length.subsec_millis());
    match secs {
        0 => format!("{millis}ms"),
        1..10 => format!("{secs}.{}s", millis / 100),
        10..60 => format!("{secs}s"),
        60..3600 => format!("{}m{}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h{}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d{}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

/// To the second: `2026-11-21T11:19:52Z`.
pub(crate) fn time(at: Time) -> String {
    Time(at.0.div_euclid(1000).saturating_mul(1000)).to_string()
}

/// The value, or `-`.
pub(crate) fn or_dash<T>(value: Option<T>, print: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), print)
}

/// A value as it stands in JSON, without quotes: for enums of the API.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(rate(1.5e6), "1.4 MiB/s");
        assert_eq!(rate(f64::NAN), "0 B/s");
        assert_eq!(rate(-1.0), "0 B/s");
    }

    #[test]
    fn lengths_of_time_for_people() {
        for (length, text) in [
            (0.0, "0ms"),
            (0.0854, "85ms"),
            (0.9999, "999ms"),
            (1.25, "1.2s"),
            (9.99, "9.9s"),
            (10.0, "10s"),
            (59.9, "59s"),
            (60.0, "1m0s"),
            (3599.0, "59m59s"),
            (3600.0, "1h0m"),
            (86_400.0, "1d0h"),
            (-1.0, "-"),
            (f64::NAN, "-"),
        ] {
            assert_eq!(seconds(length), text, "{length}");
        }
        assert_eq!(time(Time(-1)), "1969-12-31T23:59:59Z");
        assert_eq!(time(Time(1999)), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn a_table_looks_like_kubectl() {
        let rows = [["shop".into(), "active".into()], ["warehouse".into(), "-".into()]];
        assert_eq!(table("none", ["name", "role"], rows), "NAME       ROLE\nshop       active\nwarehouse  -");
        assert_eq!(table("none", ["name"], []), "none");
        assert_eq!(
            pairs([("Plan", "shop".into()), ("Last cycle", "-".into())]),
            "Plan:        shop\nLast cycle:  -"
        );
    }
}
