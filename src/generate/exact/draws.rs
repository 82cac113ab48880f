//! Where the lengths of random prompts and responses come from: a range, distributions, pairs in a file, or scenarios.

use std::path::{Path, PathBuf};

use clap::ArgAction;

use crate::{
    cli,
    error::Error,
    fields::WholeCount,
    generate::{
        args::LENGTHS,
        csv_table::CsvTable,
        exact::{LengthDistribution, LengthRanges},
    },
    rng,
    units::MAX_TOKENS,
};

/// Flags for lengths other than one number.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LengthFlags {
    /// Draw prompt lengths: uniform:A,B, normal:MEAN,SD, lognormal:MEAN,SD or zipf:ALPHA,MAX, optionally with ,min=N
    /// and ,max=N (random and random-mm).
    #[arg(long, help_heading = LENGTHS, value_name = "DIST")]
    input_dist: Option<LengthDistribution>,
    /// Draw output lengths, with the same syntax (random and random-mm).
    #[arg(long, help_heading = LENGTHS, value_name = "DIST")]
    output_dist: Option<LengthDistribution>,
    /// Draw pairs of lengths from the columns `input` and `output` of a CSV file, or with --disable-shuffle use them in
    /// order, repeatedly (random and random-mm).
    #[arg(long, help_heading = LENGTHS, value_name = "FILE")]
    lengths: Option<PathBuf>,
    /// Lengths in genai-bench's syntax: D(100,100), N(480,240)/(300,150), U(50,100)/(200,250), or U(100,200) for 1 to
    /// 100 and 1 to 200. With several scenarios, each request draws one and gets it as the tag `scenario` (random and
    /// random-mm).
    #[arg(long, help_heading = LENGTHS, value_name = "SCENARIO", action = ArgAction::Append, num_args(1..))]
    scenario: Vec<Scenario>,
}

impl LengthFlags {
    /// Whether these flags set the prompt lengths.
    pub fn sets_input(&self) -> bool {
        self.input_dist.is_some() || self.sets_both()
    }

    /// Whether these flags set the output lengths.
    pub fn sets_output(&self) -> bool {
        self.output_dist.is_some() || self.sets_both()
    }

    fn sets_both(&self) -> bool {
        self.lengths.is_some() || !self.scenario.is_empty()
    }

    /// Rejects flags that set the same length twice.
    pub fn check_exclusive(&self) -> Result<(), Error> {
        let ways = [
            self.input_dist.is_some() || self.output_dist.is_some(),
            self.lengths.is_some(),
            !self.scenario.is_empty(),
        ];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return Err(Error::Usage(
                "lengths come from --input-dist and --output-dist, from --lengths, or from --scenario: use one of these"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// Named prompt and output lengths.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    name: String,
    input: LengthDistribution,
    output: LengthDistribution,
}

impl std::str::FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let elsewhere = suggest_dataset(text).map_or_else(String::new, |how| format!("; {how}"));
            format!(
                "`{text}` is not a scenario: write D(100,100), N(480,240)/(300,150), U(50,100)/(200,250) or U(100,200){elsewhere}"
            )
        };
        let name: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (kind, rest) = name.split_at_checked(1).ok_or_else(wrong)?;
        let pairs = rest.split('/').map(parse_pair).collect::<Option<Vec<[u32; 2]>>>().ok_or_else(wrong)?;
        let normal = |[mean, sd]: [u32; 2]| LengthDistribution::new_normal(mean.into(), sd.into(), 1, MAX_TOKENS);
        let uniform = |[low, high]: [u32; 2]| LengthDistribution::new_uniform(low, high);
        let (input, output) = match (kind, &pairs[..]) {
            ("D" | "d", [[input, output]]) => (uniform([*input, *input]), uniform([*output, *output])),
            ("N" | "n", [input, output]) => (normal(*input), normal(*output)),
            ("U" | "u", [[input, output]]) => (uniform([1, *input]), uniform([1, *output])),
            ("U" | "u", [input, output]) => (uniform(*input), uniform(*output)),
            _ => return Err(wrong()),
        };
        let with_text = |what: String| format!("`{text}`: {what}");
        Ok(Scenario { name: name.clone(), input: input.map_err(with_text)?, output: output.map_err(with_text)? })
    }
}

/// Suggests another flag for genai-bench's scenarios that are not lengths.
fn suggest_dataset(text: &str) -> Option<&'static str> {
    match text.trim().split('(').next()? {
        "E" | "e" => Some("to embed texts, use --input-len N with --backend openai-embeddings"),
        "R" | "r" => Some("to rank documents, use --dataset-name random-rerank"),
        "P" | "p" => Some("for shared prefixes, use --dataset-name prefix_repetition, or --prefix-len N"),
        "I" | "i" => Some("for images, use --dataset-name random-mm"),
        _ => None,
    }
}

/// Parses `(100,200)`.
fn parse_pair(text: &str) -> Option<[u32; 2]> {
    let (a, b) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some([a.parse().ok()?, b.parse().ok()?])
}

/// Lengths drawn for one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawnLengths<'a> {
    /// Prompt tokens including those that the server adds, without the shared prefix.
    pub input: u32,
    pub output: u32,
    pub scenario: Option<&'a str>,
}

/// The lengths of all requests of a run.
#[derive(Debug, Clone)]
pub enum LengthSource {
    /// Lengths with a range ratio; the prompt range does not include the tokens that the server adds.
    Ranges {
        lengths: LengthRanges,
        overhead: u32,
    },
    Apart {
        input: LengthDistribution,
        output: LengthDistribution,
    },
    Pairs {
        pairs: Vec<(u32, u32)>,
        in_order: bool,
    },
    Scenarios(Vec<Scenario>),
}

impl LengthSource {
    /// Reads the flags; lengths that they do not set come from `ranges`. Every drawn prompt has at least 1 token in
    /// addition to the `overhead` that the server adds, and every response at least 1 token, unless nothing is
    /// generated.
    pub fn from_flags(
        args: &LengthFlags,
        ranges: LengthRanges,
        overhead: u32,
        in_order: bool,
        generates: bool,
    ) -> Result<Self, Error> {
        let usage = |what: String| Error::Usage(format!("lengths: {what}"));
        let roomy = |input: &LengthDistribution| input.at_least(overhead + 1).map_err(usage);
        if let Some(path) = &args.lengths {
            return Ok(LengthSource::Pairs { pairs: read_pairs(path, generates)?, in_order });
        }
        if !args.scenario.is_empty() {
            let with_room = |s: &Scenario| Ok(Scenario { input: roomy(&s.input)?, ..s.clone() });
            return args.scenario.iter().map(with_room).collect::<Result<_, Error>>().map(LengthSource::Scenarios);
        }
        if args.input_dist.is_none() && args.output_dist.is_none() {
            return Ok(LengthSource::Ranges { lengths: ranges, overhead });
        }
        let input = match &args.input_dist {
            Some(input) => roomy(input)?,
            None => ranges.input.to_distribution(overhead).map_err(usage)?,
        };
        let output = match &args.output_dist {
            Some(output) => output.clone(),
            None => ranges.output.to_distribution(0).map_err(usage)?,
        };
        Ok(LengthSource::Apart { input, output })
    }

    /// Draws the lengths of `item`.
    pub fn draw_lengths(&self, seed: u64, item: u64) -> DrawnLengths<'_> {
        // Separate streams, so that another distribution of one does not change the other.
        let [mut first, mut second] =
            ["input length", "output length"].map(|name| rng::random_stream(seed, name, item));
        match self {
            LengthSource::Ranges { lengths, overhead } => {
                let (own, output) = lengths.draw_lengths(seed, item);
                let input = u32::try_from(own).unwrap_or(u32::MAX).saturating_add(*overhead);
                DrawnLengths { input, output, scenario: None }
            }
            LengthSource::Apart { input, output } => DrawnLengths {
                input: input.draw_length(&mut first),
                output: output.draw_length(&mut second),
                scenario: None,
            },
            LengthSource::Pairs { pairs, in_order } => {
                let place = if *in_order {
                    super::wrap_index(item, pairs.len())
                } else {
                    rng::sample_index(&mut rng::random_stream(seed, "lengths", item), pairs.len())
                };
                let (input, output) = pairs[place];
                DrawnLengths { input, output, scenario: None }
            }
            LengthSource::Scenarios(scenarios) => {
                let scenario =
                    &scenarios[rng::sample_index(&mut rng::random_stream(seed, "scenario", item), scenarios.len())];
                DrawnLengths {
                    input: scenario.input.draw_length(&mut first),
                    output: scenario.output.draw_length(&mut second),
                    scenario: Some(&scenario.name),
                }
            }
        }
    }
}

/// Reads the pairs of a file: 8 bytes are kept per pair.
fn read_pairs(path: &Path, generates: bool) -> Result<Vec<(u32, u32)>, Error> {
    let (input, name) = cli::open_input(path)?;
    let mut table = CsvTable::new(input, name.clone())?;
    let (input, output) = (table.find_column("input")?, table.find_column("output")?);
    let mut pairs = Vec::new();
    let count = |table: &CsvTable<_>, column, least: u32| {
        let length = |text: &str| {
            WholeCount::parse(text).map(|count| count.0).filter(|length| (least..=MAX_TOKENS).contains(length))
        };
        table
            .parse_field(column, length)
            .map_err(|e| Error::Input(format!("{e}: lengths must be from {least} to {MAX_TOKENS} tokens")))
    };
    while table.read_row()? {
        pairs.push((count(&table, input, 1)?, count(&table, output, u32::from(generates))?));
    }
    if pairs.is_empty() {
        return Err(Error::Input(format!("{name} has no pairs of lengths")));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::{super::LengthRange, *};

    const SEED: u64 = 3;

    #[test]
    fn scenarios_match_genai_bench() {
        let scenario: Scenario = "U(50, 100)/(200,250)".parse().unwrap();
        assert_eq!(
            (scenario.name.as_str(), scenario.input),
            ("U(50,100)/(200,250)", LengthDistribution::new_uniform(50, 100).unwrap())
        );
        let fixed: Scenario = "D(100,64)".parse().unwrap();
        assert_eq!(fixed.output, LengthDistribution::new_uniform(64, 64).unwrap());
        assert!("N(480,240)/(300,150)".parse::<Scenario>().is_ok());
        let most: Scenario = "U(100,200)".parse().unwrap();
        assert_eq!(
            (most.input, most.output),
            (LengthDistribution::new_uniform(1, 100).unwrap(), LengthDistribution::new_uniform(1, 200).unwrap())
        );
        for text in ["", "D", "D(1)", "D(1,2)/(3,4)", "N(1,2)", "E(1024)", "U(9,5)/(1,2)", "U(0,5)", "é(1,2)"] {
            assert!(text.parse::<Scenario>().is_err(), "{text}");
        }
        for (text, word) in [
            ("E(1024)", "openai-embeddings"),
            ("R(1024,100)", "random-rerank"),
            ("P(2000,500)/200", "prefix_repetition"),
            ("I(512,512)", "random-mm"),
        ] {
            let error = text.parse::<Scenario>().unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn another_distribution_of_answers_leaves_the_prompts_alone() {
        let ranges =
            LengthRanges { input: LengthRange::from_ratio(100, 0.5), output: LengthRange::from_ratio(10, 0.0) };
        let draws = |output: &str| {
            let args = LengthFlags { output_dist: Some(output.parse().unwrap()), ..LengthFlags::default() };
            LengthSource::from_flags(&args, ranges, 7, false, true).unwrap()
        };
        let (a, b) = (draws("normal:50,20"), draws("zipf:1,100"));
        for item in 0..200 {
            let (a, b) = (a.draw_lengths(SEED, item), b.draw_lengths(SEED, item));
            assert!(a.input == b.input && (57..=157).contains(&a.input));
        }
    }

    #[test]
    fn a_prompt_has_a_token_besides_the_special_ones() {
        let args = LengthFlags { input_dist: Some("uniform:1,40".parse().unwrap()), ..LengthFlags::default() };
        let ranges = LengthRanges { input: LengthRange::from_ratio(1, 0.0), output: LengthRange::from_ratio(10, 0.0) };
        let draws = LengthSource::from_flags(&args, ranges, 30, false, true).unwrap();
        assert!((0..200).all(|item| draws.draw_lengths(SEED, item).input > 30));
        assert!(LengthSource::from_flags(&args, ranges, 40, false, true).is_err());
    }
}
