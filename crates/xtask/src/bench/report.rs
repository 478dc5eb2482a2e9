//! The result, for people and for programs.

use std::fmt::Write;

use super::measure::Cost;

/// One line of the result: medians.
pub(super) struct Row {
    pub(super) family: &'static str,
    pub(super) operation: &'static str,
    pub(super) ours: Cost,
    pub(super) theirs: Cost,
}

impl Row {
    /// Our time in units of theirs: below 1 is faster.
    fn ratio(&self) -> f64 {
        self.ours.wall / self.theirs.wall
    }

    /// The row in one line of text.
    pub(super) fn line(&self) -> String {
        format!(
            "{:8} {:18} {:8.3} s {:8.3} s  ratio {:6.3}",
            self.family,
            self.operation,
            self.ours.wall,
            self.theirs.wall,
            self.ratio()
        )
    }
}

/// A table for people.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| Family  | Operation          | backchain s | qemu-img s | ratio | CPU s       | peak MiB  |\n\
         |---------|--------------------|------------:|-----------:|------:|------------:|----------:|\n",
    );
    for row in rows {
        let cpu = format!("{:.2} / {:.2}", row.ours.cpu, row.theirs.cpu);
        let memory = format!("{:.0} / {:.0}", row.ours.memory, row.theirs.memory);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {:7} | {:18} | {:11.3} | {:10.3} | {:5.3} | {cpu:>11} | {memory:>9} |",
            row.family,
            row.operation,
            row.ours.wall,
            row.theirs.wall,
            row.ratio(),
        );
    }
    let slower = rows.iter().filter(|row| row.ratio() >= 1.0).count();
    let _ = writeln!(
        text,
        "\n{} rows, {slower} of them slower than qemu-img. CPU and memory: backchain / qemu-img.",
        rows.len()
    );
    text
}

/// The same as JSON; times in seconds, memory in MiB.
pub(super) fn json(rows: &[Row], quick: bool, rounds: usize) -> String {
    let cost = |cost: &Cost| {
        format!(
            r#"{{"wall": {:.6}, "cpu": {:.6}, "memory": {:.3}}}"#,
            cost.wall, cost.cpu, cost.memory
        )
    };
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                r#"    {{"family": "{}", "operation": "{}", "ratio": {:.4}, "backchain": {}, "qemu-img": {}}}"#,
                row.family,
                row.operation,
                row.ratio(),
                cost(&row.ours),
                cost(&row.theirs)
            )
        })
        .collect();
    format!(
        "{{\n  \"quick\": {quick},\n  \"rounds\": {rounds},\n  \"rows\": [\n{}\n  ]\n}}\n",
        lines.join(",\n")
    )
}
