//! Runs that were made with the same settings, as one: the mean of each number, its interval and its spread.

use super::{
    Sheet, cell,
    columns::{self, LAST},
    lengths,
    run::Run,
};
use crate::statistics::{Distribution, Unit, Wanted, interval};

/// How the repeats of a cell are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// A row for each cell; for each number the columns NAME, `NAME_low`, `NAME_high` and `NAME_cv`.
    Wide,
    /// A row for each number of each cell: `metric`, `mean`, `low`, `high` and `cv`.
    Long,
}

/// What is told of a number beside its mean, with its Chinese names.
const BESIDE: [(&str, &str); 3] = [("low", "下限"), ("high", "上限"), ("cv", "变异系数")];

/// One sheet of all runs.
#[must_use]
pub(super) fn sheet(runs: &[Run], shape: Shape) -> Sheet {
    let columns = columns::columns(runs);
    let (settings, numbers): (Vec<&String>, Vec<&String>) =
        columns.iter().filter(|key| *key != "date").partition(|key| columns::is_setting(key));
    let cells = cells(runs, &settings);
    let lengths = LAST[..2].iter().map(|(name, _)| *name);
    let mut names: Vec<_> = settings.iter().map(|key| key.as_str()).chain(lengths).map(columns::named).collect();
    names.push(("runs".into(), "运行次数".into()));
    let mut rows = Vec::new();
    match shape {
        Shape::Wide => {
            for key in &numbers {
                names.push(columns::named(key));
                names.extend(BESIDE.map(|(name, word)| (format!("{key}_{name}"), columns::chinese(key) + " " + word)));
            }
            for (setting, repeats) in &cells {
                let told = numbers.iter().flat_map(|key| spread(repeats, key).unwrap_or_default());
                rows.push(setting.iter().cloned().chain(told).collect());
            }
        }
        Shape::Long => {
            names.extend([("metric".into(), "指标".into()), ("mean".into(), "均值".into())]);
            names.extend(BESIDE.map(|(name, chinese)| (name.into(), chinese.into())));
            for (setting, repeats) in &cells {
                for key in &numbers {
                    let Some(told) = spread(repeats, key) else { continue };
                    let row = setting.iter().cloned().chain([(*key).clone()]).chain(told);
                    rows.push(row.collect());
                }
            }
        }
    }
    Sheet { names, rows }
}

/// The runs by their settings, which come first, with the number of runs behind them.
fn cells<'a>(runs: &'a [Run], settings: &[&String]) -> Vec<(Vec<String>, Vec<&'a Run>)> {
    let mut cells: Vec<(Vec<String>, Vec<&Run>)> = Vec::new();
    for run in runs {
        let settings = settings.iter().map(|key| cell(run.scalars.get(*key)));
        let setting: Vec<String> = settings.chain(lengths(run)).collect();
        match cells.iter_mut().find(|(known, _)| *known == setting) {
            Some((_, repeats)) => repeats.push(run),
            None => cells.push((setting, vec![run])),
        }
    }
    for (setting, repeats) in &mut cells {
        setting.push(repeats.len().to_string());
    }
    cells
}

/// Mean, the ends of its 95 % interval, and the coefficient of variation of a number over repeats; `None`: none has it.
fn spread(repeats: &[&Run], key: &str) -> Option<[String; 4]> {
    let values: Vec<f64> = repeats.iter().filter_map(|run| run.scalars.get(key)?.as_f64()).collect();
    let n = values.len() as f64;
    let told = Distribution::of(values, Unit::Tokens, &Wanted::default());
    let interval = interval::of_mean(told.mean, told.std, n);
    let cv = (told.n > 1 && told.mean != 0.0).then(|| told.std * (n / (n - 1.0)).sqrt() / told.mean);
    let shown = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    (told.n > 0).then(|| [Some(told.mean), interval.low, interval.high, cv].map(shown))
}
