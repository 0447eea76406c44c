//! What a comparison found: rows of figures, and their ratios to the best peer and to the floor.

use serde::Serialize;

use crate::contestant::Kind;
use crate::statistics::Spread;

/// One question asked of all contestants. Less is better in every row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// What was run, and what to know when reading it.
    pub(crate) note: String,
    pub(crate) rounds: usize,
    pub(crate) void_rounds: usize,
    pub(crate) cells: Vec<Cell>,
}

/// One contestant's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cell {
    pub(crate) contestant: &'static str,
    pub(crate) kind: Kind,
    /// `None` for a control where the row's figure has no meaning for it.
    pub(crate) figure: Option<Spread>,
    pub(crate) samples: Vec<f64>,
    /// Named counters beside the figure, medians.
    pub(crate) beside: Vec<Beside>,
    /// Core 1 was full and the proxy was not: the proxy could have done more.
    pub(crate) load_was_the_bottleneck: bool,
    /// The figure says nothing, because the control is too large a part of it.
    pub(crate) void: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Beside {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
}

impl Row {
    fn least(&self, kind: Kind) -> Option<f64> {
        let figures = self.cells.iter().filter(|cell| cell.kind == kind);
        figures.filter_map(|cell| Some(cell.figure?.median)).min_by(f64::total_cmp)
    }

    /// A figure as a multiple of the best peer's.
    pub(crate) fn to_best_peer(&self, cell: &Cell) -> Option<f64> {
        ratio(cell.figure?.median, self.least(Kind::Peer)?)
    }

    /// How much of a figure the floor is.
    pub(crate) fn floor_to(&self, cell: &Cell) -> Option<f64> {
        ratio(self.least(Kind::Floor)?, cell.figure?.median)
    }

    /// The names of all counters, in the order in which they first appear.
    pub(crate) fn beside_names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for beside in self.cells.iter().flat_map(|cell| &cell.beside) {
            if !names.contains(&beside.name) {
                names.push(beside.name);
            }
        }
        names
    }
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

/// Where and with what this was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub congestion_control: String,
    pub versions: Vec<String>,
    pub command: String,
}

impl Machine {
    pub fn here(versions: Vec<String>) -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.unwrap_or_default().trim_start_matches([' ', '\t', ':']);
        Machine {
            cpu: model.to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            versions,
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        }
    }
}

#[cfg(test)]
pub(crate) fn example() -> Row {
    let cell = |contestant, kind, median: Option<f64>| Cell {
        contestant,
        kind,
        figure: median.map(|median| Spread { median, min: median - 0.5, max: median + 0.5 }),
        samples: Vec::new(),
        beside: vec![Beside { name: "errors", value: 0.0 }],
        load_was_the_bottleneck: false,
        void: false,
    };
    Row {
        name: "http 64".to_owned(),
        unit: "µs",
        note: "an example".to_owned(),
        rounds: 5,
        void_rounds: 1,
        cells: vec![
            cell("direct", Kind::Control, None),
            cell("floor uring", Kind::Floor, Some(6.0)),
            cell("nginx", Kind::Peer, Some(10.0)),
            cell("haproxy", Kind::Peer, Some(12.0)),
            cell("ringside", Kind::Ours, Some(7.5)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_best_peer_and_from_the_floor() {
        let row = example();
        let ours = row.cells.last().unwrap();
        assert_eq!(row.to_best_peer(ours), Some(0.75));
        assert_eq!(row.floor_to(ours), Some(0.8));
        assert_eq!(row.to_best_peer(&row.cells[0]), None, "the control has no figure");
    }

    #[test]
    fn without_peers_there_is_no_ratio() {
        let mut row = example();
        row.cells.retain(|cell| cell.kind != Kind::Peer);
        assert_eq!(row.to_best_peer(row.cells.last().unwrap()), None);
    }
}
