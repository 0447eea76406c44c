//! Rows as text: aligned for a terminal, or as Markdown.

use crate::results::{Cell, Machine, Row};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Markdown,
}

/// One row with a heading, a line for each contestant, and its note.
pub(crate) fn render(row: &Row, style: Style) -> String {
    let names = row.beside_names();
    let mut lines = vec![
        ["", "median", "min–max", "× best peer", "floor ÷ it"]
            .into_iter()
            .chain(names.iter().copied())
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    ];
    lines.extend(row.cells.iter().map(|cell| line(row, cell, &names)));

    let void = match row.void_rounds {
        0 => String::new(),
        void => format!(", {void} void"),
    };
    let heading = format!("{} ({}; {} rounds{void})", row.name, row.unit, row.rounds);
    match style {
        Style::Plain => {
            let note =
                if row.note.is_empty() { String::new() } else { format!("  {}\n", row.note) };
            format!("{heading}\n{}{note}", aligned(&lines))
        }
        Style::Markdown => {
            let rule = vec!["---"; lines[0].len()].join("|");
            let rows: Vec<String> =
                lines.iter().map(|cells| format!("| {} |", cells.join(" | "))).collect();
            let (head, rest) = rows.split_first().expect("there is a heading line");
            format!("### {heading}\n\n{head}\n|{rule}|\n{}\n\n{}\n", rest.join("\n"), row.note)
        }
    }
}

fn line(row: &Row, cell: &Cell, names: &[&str]) -> Vec<String> {
    let absent = || "–".to_owned();
    let ratio = |ratio: Option<f64>| ratio.map_or_else(absent, |ratio| format!("{ratio:.2}"));
    let mut name = cell.contestant.to_owned();
    if cell.load_was_the_bottleneck {
        name.push('*');
    }
    if cell.void {
        name.push_str(" (void)");
    }
    let (median, spread) = match cell.figure {
        Some(figure) => {
            (number(figure.median), format!("{}–{}", number(figure.min), number(figure.max)))
        }
        None => (absent(), absent()),
    };
    let mut columns =
        vec![name, median, spread, ratio(row.to_best_peer(cell)), ratio(row.floor_to(cell))];
    columns.extend(names.iter().map(|name| {
        let beside = cell.beside.iter().find(|beside| beside.name == *name);
        beside.map_or_else(absent, |beside| number(beside.value))
    }));
    columns
}

/// Three digits are enough; more than the measurement holds would only pretend.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            text += &if column == 0 {
                format!("  {cell:<width$}")
            } else {
                format!("  {cell:>width$}")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Everything, as a fragment for RESULTS.md.
pub(crate) fn markdown(machine: &Machine, rows: &[Row]) -> String {
    let Machine { cpu, cores, kernel, congestion_control, versions, command } = machine;
    let rows: Vec<String> = rows.iter().map(|row| render(row, Style::Markdown)).collect();
    format!(
        "## `loadtest {command}`\n\n{cpu}, {cores} cores, Linux {kernel}, TCP {congestion_control}. {}.\n\n{FOOTNOTE}\n\n{}",
        versions.join("; "),
        rows.join("\n")
    )
}

/// How to read the tables.
pub(crate) const FOOTNOTE: &str = "Proxy alone on core 0, one worker; generator and origin on \
core 1; less is better. Forwarded headers, request id and via are on and the access log is off \
everywhere but in the floor and the direct control, which read nothing. `*`: core 1 was the \
bottleneck, the proxy could have done more (its CPU per request still holds).";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::example;

    #[test]
    fn columns_line_up() {
        let text = render(&example(), Style::Plain);
        assert_eq!(
            text,
            "http 64 (µs; 5 rounds, 1 void)\n\
             \x20              median    min–max  × best peer  floor ÷ it  errors\n\
             \x20 direct            –          –            –           –       0\n\
             \x20 floor uring    6.00  5.50–6.50         0.60        1.00       0\n\
             \x20 nginx          10.0  9.50–10.5         1.00        0.60       0\n\
             \x20 haproxy        12.0  11.5–12.5         1.20        0.50       0\n\
             \x20 ringside       7.50  7.00–8.00         0.75        0.80       0\n\
             \x20 an example\n"
        );
    }

    #[test]
    fn markdown_has_as_many_rules_as_columns() {
        let text = render(&example(), Style::Markdown);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2].matches('|').count(), lines[3].matches('|').count());
        assert!(lines[0].starts_with("### http 64"));
    }
}
