//! `--grid`: one line per cell of the config's grid, for a script to loop over.

use std::{collections::HashSet, io::Write, path::Path};

use rand::Rng;
use serde::Serialize;

use crate::{cli, config, error::Error, ndjson, rng};

/// Output format of the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GridFormat {
    /// One JSON object per line.
    Json,
    /// The same values in the same order, separated by tabs, for `while read`.
    Tsv,
    /// Not the cells but the config, without the values of secrets, for a copy that is kept with results.
    Config,
}

/// A cell of the grid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct GridCell {
    /// `None`, like the output length, if the dataset determines the lengths.
    input_len: Option<u32>,
    output_len: Option<u32>,
    max_concurrency: u32,
    num_prompts: u32,
    seed: u64,
    name: String,
    base_url: Option<String>,
    model: Option<String>,
}

/// Writes the cells of the grid in `config`.
pub fn run(config: &Path, format: GridFormat, seed: u64) -> Result<(), Error> {
    if format == GridFormat::Config {
        return cli::print_to_stdout(&config::config_without_secrets(config)?);
    }
    let grid = config::read_grid(config)?;
    let mut out = cli::buffered_stdout();
    for cell in grid_cells(&grid, seed) {
        match format {
            GridFormat::Json => ndjson::write_record(&mut out, &cell)?,
            GridFormat::Config => {}
            GridFormat::Tsv => writeln!(out, "{}", cell.to_tsv()).map_err(Error::write_stdout)?,
        }
    }
    out.flush().map_err(Error::write_stdout)
}

impl GridCell {
    /// The values separated by tabs; `-` for missing ones, because `read` would skip an empty field.
    fn to_tsv(&self) -> String {
        let GridCell { input_len, output_len, max_concurrency, num_prompts, seed, name, base_url, model } = self;
        let [base_url, model] = [base_url, model].map(|text| text.as_deref().unwrap_or("-"));
        let [input_len, output_len] =
            [input_len, output_len].map(|n| n.map_or_else(|| "-".to_owned(), |n| n.to_string()));
        format!("{input_len}\t{output_len}\t{max_concurrency}\t{num_prompts}\t{seed}\t{name}\t{base_url}\t{model}")
    }
}

/// Combines each pair of lengths with each pair of concurrency and number of prompts; without lengths, uses each load
/// once.
fn grid_cells(grid: &config::Grid, base: u64) -> Vec<GridCell> {
    let mut lengths: Vec<_> = grid.input_output.iter().map(|&(input, output)| (Some(input), Some(output))).collect();
    if lengths.is_empty() {
        lengths.push((None, None));
    }
    let mut taken = HashSet::new();
    let mut cells = Vec::new();
    for (input_len, output_len) in lengths {
        let what = match (input_len, output_len) {
            (Some(input), Some(output)) => format!("io{input}x{output}"),
            _ => grid.dataset_name.clone().unwrap_or_default(),
        };
        for &(max_concurrency, num_prompts) in &grid.concurrency_prompts {
            let lengths = [input_len, output_len].map(Option::unwrap_or_default);
            let mut seed = cell_seed(base, [lengths[0], lengths[1], max_concurrency, num_prompts]);
            let mut name = format!("bench_{what}_mc{max_concurrency}_np{num_prompts}");
            // A repeated cell gets other prompts and another name.
            for run in 2.. {
                if taken.insert(seed) {
                    break;
                }
                seed = seed.wrapping_add(1);
                name = format!("bench_{what}_mc{max_concurrency}_np{num_prompts}_run{run}");
            }
            let (base_url, model) = (grid.base_url.clone(), grid.model.clone());
            cells.push(GridCell { input_len, output_len, max_concurrency, num_prompts, seed, name, base_url, model });
        }
    }
    cells
}

/// A separate seed for each cell, so that no cell finds its prompts in a prefix cache that an earlier one filled.
///
/// The seed depends on the values of the cell and not on its position, so existing cells keep theirs when the grid
/// grows.
fn cell_seed(base: u64, [input, output, concurrency, prompts]: [u32; 4]) -> u64 {
    let pair = |a: u32, b: u32| u64::from(a) << 32 | u64::from(b);
    let drawn = rng::random_stream(pair(input, output), "grid cell", pair(concurrency, prompts)).next_u64();
    // 31 bits, so that the sum fits the integers of every language.
    base.wrapping_add(drawn >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(input_output: &[(u32, u32)], concurrency_prompts: &[(u32, u32)]) -> config::Grid {
        config::Grid {
            model: None,
            base_url: Some("sim".into()),
            dataset_name: None,
            input_output: input_output.to_vec(),
            concurrency_prompts: concurrency_prompts.to_vec(),
        }
    }

    #[test]
    fn no_two_cells_have_the_same_seed_and_a_cell_keeps_its_own() {
        let lengths: Vec<(u32, u32)> = (1..20).map(|i| (i * 128, i * 16)).collect();
        let loads: Vec<(u32, u32)> = (1..20).map(|i| (i, i * 10)).collect();
        let all = grid_cells(&grid(&lengths, &loads), 7);
        let seeds: HashSet<u64> = all.iter().map(|c| c.seed).collect();
        assert_eq!((all.len(), seeds.len()), (361, 361));
        let last = grid_cells(&grid(&lengths[18..], &loads[18..]), 7);
        assert_eq!(last[0], all[360]);
    }

    #[test]
    fn a_cell_that_is_named_twice_gets_other_prompts() {
        let twice = grid_cells(&grid(&[(128, 64)], &[(8, 80), (8, 80)]), 0);
        assert_ne!(twice[0].seed, twice[1].seed);
        let names: Vec<&str> = twice.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["bench_io128x64_mc8_np80", "bench_io128x64_mc8_np80_run2"]);
        assert!(twice[0].to_tsv().ends_with("_np80\tsim\t-"), "{}", twice[0].to_tsv());
    }

    #[test]
    fn without_lengths_a_load_is_a_cell() {
        let grid = config::Grid { dataset_name: Some("sharegpt".into()), ..grid(&[], &[(8, 80), (8, 80)]) };
        let twice = grid_cells(&grid, 0);
        assert_ne!(twice[0].seed, twice[1].seed);
        let names: Vec<&str> = twice.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["bench_sharegpt_mc8_np80", "bench_sharegpt_mc8_np80_run2"]);
        assert!(twice[0].to_tsv().starts_with("-\t-\t8\t80\t"), "{}", twice[0].to_tsv());
    }
}
