//! Combines runs with the same settings: the mean of each number, its interval and its spread.

use super::{
    Sheet, cell_text,
    columns::{self, LAST_COLUMNS},
    input::input_name,
    length_values,
    run::{ResultRow, RunTrust},
    trust_values,
};
use crate::error::Error;
use crate::statistics::{SampleStats, SummaryOptions, Unit, interval};

/// The layout of the numbers of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RepeatsLayout {
    /// One row per cell; each number has the columns NAME, `NAME_low`, `NAME_high` and `NAME_cv`.
    Wide,
    /// One row per cell and number: `metric`, `mean`, `low`, `high` and `cv`.
    Long,
}

/// The columns of a number after its mean.
const SPREAD_COLUMNS: [&str; 3] = ["low", "high", "cv"];

/// Builds the sheet from the runs of all cells.
#[must_use]
pub(super) fn sheet_of_repeats(
    runs: &[ResultRow],
    columns: &[String],
    layout: RepeatsLayout,
) -> Sheet<Vec<Vec<String>>> {
    let (settings, numbers): (Vec<&String>, Vec<&String>) =
        columns.iter().filter(|key| *key != "date").partition(|key| columns::is_setting(key));
    let cells = group_by_settings(runs, &settings);
    let lengths = LAST_COLUMNS[..2].iter().copied();
    let mut names: Vec<_> = settings.iter().map(|key| key.as_str()).chain(lengths).map(columns::column_name).collect();
    names.push(columns::column_name("runs"));
    names.extend(LAST_COLUMNS[2..5].iter().map(|name| columns::column_name(name)));
    let mut rows = Vec::new();
    match layout {
        RepeatsLayout::Wide => {
            for key in &numbers {
                names.push(columns::column_name(key));
                names.extend(SPREAD_COLUMNS.map(|name| {
                    (format!("{key}_{name}"), columns::chinese_name(key) + " " + &columns::chinese_name(name))
                }));
            }
            for (setting, repeats) in &cells {
                let values = numbers.iter().flat_map(|key| spread_cells(repeats, key).unwrap_or_default());
                rows.push(setting.iter().cloned().chain(values).collect());
            }
        }
        RepeatsLayout::Long => {
            names.extend(["metric", "mean"].map(columns::column_name));
            names.extend(SPREAD_COLUMNS.map(columns::column_name));
            for (setting, repeats) in &cells {
                for key in &numbers {
                    let Some(values) = spread_cells(repeats, key) else { continue };
                    let row = setting.iter().cloned().chain([(*key).clone()]).chain(values);
                    rows.push(row.collect());
                }
            }
        }
    }
    Sheet { names, rows }
}

/// Rejects a run that is in the input twice: it would be a repeat that varies by nothing.
pub(super) fn check_distinct(runs: &[ResultRow]) -> Result<(), Error> {
    for (i, run) in runs.iter().enumerate() {
        if let Some(other) = runs[..i].iter().find(|other| other.scalars == run.scalars) {
            let (one, two) = (input_name(&other.filename), input_name(&run.filename));
            return Err(Error::Input(format!(
                "{one} and {two} have the same run, which is not a repeat; pass it once"
            )));
        }
    }
    Ok(())
}

/// Groups the runs by their settings. The cells of the settings end with the number of runs, and how far to trust them.
fn group_by_settings<'a>(runs: &'a [ResultRow], settings: &[&String]) -> Vec<(Vec<String>, Vec<&'a ResultRow>)> {
    let mut cells: Vec<(Vec<String>, Vec<&ResultRow>)> = Vec::new();
    for run in runs {
        let settings = settings.iter().map(|key| run.scalars.get(*key).cloned().unwrap_or_default());
        let setting: Vec<String> = settings.chain(length_values(run)).map(cell_text).collect();
        match cells.iter_mut().find(|(known, _)| *known == setting) {
            Some((_, repeats)) => repeats.push(run),
            None => cells.push((setting, vec![run])),
        }
    }
    for (setting, repeats) in &mut cells {
        setting.push(repeats.len().to_string());
        let worst = repeats.iter().map(|run| run.trust).reduce(RunTrust::worse);
        setting.extend(trust_values(worst.unwrap_or_default()).map(cell_text));
    }
    cells
}

/// The mean of a number over repeats, the ends of its 95 % interval, and the coefficient of variation; `None` if no run has
/// the number.
fn spread_cells(repeats: &[&ResultRow], key: &str) -> Option<[String; 4]> {
    let values: Vec<f64> = repeats.iter().filter_map(|run| run.scalars.get(key)?.as_f64()).collect();
    let n = values.len() as f64;
    let all = SampleStats::from_values(&values, Unit::Tokens, &SummaryOptions::default());
    let interval = interval::student_interval(all.mean, all.std, n, interval::TAIL);
    let cv = (all.n > 1 && all.mean != 0.0).then(|| all.std * (n / (n - 1.0)).sqrt() / all.mean);
    let shown = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    (all.n > 0).then(|| [Some(all.mean), interval.low, interval.high, cv].map(shown))
}
