//! `--grid`: a line for each cell of the config's grid, for a script to loop over.

use std::{collections::HashSet, io::Write, path::Path};

use rand::Rng;
use serde::Serialize;

use crate::{cli, config, error::Error, ndjson, rng};

/// How the cells are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GridFormat {
    /// One JSON object a line.
    Json,
    /// The same values in the same order, with tabs between them, for `while read`.
    Tsv,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Cell {
    input_len: u32,
    output_len: u32,
    max_concurrency: u32,
    num_prompts: u32,
    seed: u64,
    name: String,
}

/// Writes the cells of the grid in `config`.
pub(super) fn run(config: &Path, format: GridFormat, seed: u64) -> Result<(), Error> {
    let grid = config::grid(config)?;
    let mut out = cli::stdout();
    for cell in cells(&grid.input_output, &grid.concurrency_prompts, seed) {
        match format {
            GridFormat::Json => ndjson::write(&mut out, &cell)?,
            GridFormat::Tsv => {
                let Cell { input_len, output_len, max_concurrency, num_prompts, seed, name } = cell;
                writeln!(out, "{input_len}\t{output_len}\t{max_concurrency}\t{num_prompts}\t{seed}\t{name}")
                    .map_err(Error::stdout)?;
            }
        }
    }
    out.flush().map_err(Error::stdout)
}

/// Every pair of lengths with every pair of load.
fn cells(input_output: &[(u32, u32)], concurrency_prompts: &[(u32, u32)], base: u64) -> Vec<Cell> {
    let mut taken = HashSet::new();
    let mut cells = Vec::new();
    for &(input_len, output_len) in input_output {
        for &(max_concurrency, num_prompts) in concurrency_prompts {
            let mut seed = seed(base, [input_len, output_len, max_concurrency, num_prompts]);
            // A cell that comes twice is a repetition: with other prompts.
            while !taken.insert(seed) {
                seed = seed.wrapping_add(1);
            }
            let name = format!("bench_io{input_len}x{output_len}_mc{max_concurrency}_np{num_prompts}");
            cells.push(Cell { input_len, output_len, max_concurrency, num_prompts, seed, name });
        }
    }
    cells
}

/// A cell's own seed, so that no cell finds its prompts in the prefix cache that an earlier one filled.
///
/// It hangs on what the cell is and not on where it stands, so a grid can grow without changing the cells it had.
fn seed(base: u64, [input, output, concurrency, prompts]: [u32; 4]) -> u64 {
    let pair = |a: u32, b: u32| u64::from(a) << 32 | u64::from(b);
    let drawn = rng::stream(pair(input, output), "grid cell", pair(concurrency, prompts)).next_u64();
    // 31 bits: every language's integers hold the sum.
    base.wrapping_add(drawn >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_cells_have_the_same_seed_and_a_cell_keeps_its_own() {
        let lengths: Vec<(u32, u32)> = (1..20).map(|i| (i * 128, i * 16)).collect();
        let loads: Vec<(u32, u32)> = (1..20).map(|i| (i, i * 10)).collect();
        let all = cells(&lengths, &loads, 7);
        let seeds: HashSet<u64> = all.iter().map(|c| c.seed).collect();
        assert_eq!((all.len(), seeds.len()), (361, 361));
        let last = cells(&lengths[18..], &loads[18..], 7);
        assert_eq!(last[0], all[360]);
    }

    #[test]
    fn a_cell_that_is_named_twice_gets_other_prompts() {
        let twice = cells(&[(128, 64)], &[(8, 80), (8, 80)], 0);
        assert_ne!(twice[0].seed, twice[1].seed);
    }
}
