//! Where the lengths of random prompts and answers come from: a range, distributions, pairs of a file, or scenarios.

use std::path::{Path, PathBuf};

use clap::ArgAction;

use crate::{
    cli,
    error::Error,
    generate::{
        args::LENGTHS,
        csv_table::Table,
        exact::{Distribution, Lengths},
    },
    rng,
    units::MAX_TOKENS,
};

/// The flags of lengths that are not one number.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct LengthArgs {
    /// Draw prompt lengths: uniform:A,B, normal:MEAN,SD, lognormal:MEAN,SD or zipf:ALPHA,MAX, each with ,min=N and
    /// ,max=N if wanted (random and random-mm).
    #[arg(long, help_heading = LENGTHS, value_name = "DIST")]
    input_dist: Option<Distribution>,
    /// Draw answer lengths, in the same ways (random and random-mm).
    #[arg(long, help_heading = LENGTHS, value_name = "DIST")]
    output_dist: Option<Distribution>,
    /// Draw pairs of lengths from the columns `input` and `output` of a CSV file; with --disable-shuffle in its order,
    /// round and round (random and random-mm).
    #[arg(long, help_heading = LENGTHS, value_name = "FILE")]
    lengths: Option<PathBuf>,
    /// Lengths as genai-bench writes them: D(100,100), N(480,240)/(300,150), U(50,100)/(200,250) or U(100,200), the most of each. Of
    /// several, each request draws one; it goes into the tag `scenario` (random and random-mm).
    #[arg(long, help_heading = LENGTHS, value_name = "SCENARIO", action = ArgAction::Append, num_args(1..))]
    scenario: Vec<Scenario>,
}

impl LengthArgs {
    /// Whether prompts get their lengths here.
    pub fn input(&self) -> bool {
        self.input_dist.is_some() || self.both()
    }

    /// Whether answers get their lengths here.
    pub fn output(&self) -> bool {
        self.output_dist.is_some() || self.both()
    }

    fn both(&self) -> bool {
        self.lengths.is_some() || !self.scenario.is_empty()
    }

    /// Refuses flags that say the same length twice.
    pub fn check(&self) -> Result<(), Error> {
        let ways = [
            self.input_dist.is_some() || self.output_dist.is_some(),
            self.lengths.is_some(),
            !self.scenario.is_empty(),
        ];
        if ways.into_iter().filter(|given| *given).count() > 1 {
            return Err(Error::Usage(
                "lengths come from --input-dist and --output-dist, from --lengths, or from --scenario: give one of these"
                    .into(),
            ));
        }
        Ok(())
    }
}

/// The lengths of prompts and answers under one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    name: String,
    input: Distribution,
    output: Distribution,
}

impl std::str::FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let elsewhere = elsewhere(text).map_or_else(String::new, |how| format!("; {how}"));
            format!(
                "`{text}` is not a scenario: write D(100,100), N(480,240)/(300,150), U(50,100)/(200,250) or U(100,200){elsewhere}"
            )
        };
        let name: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (kind, rest) = name.split_at_checked(1).ok_or_else(wrong)?;
        let pairs = rest.split('/').map(pair).collect::<Option<Vec<[u32; 2]>>>().ok_or_else(wrong)?;
        let normal = |[mean, sd]: [u32; 2]| Distribution::normal(mean.into(), sd.into(), 1, MAX_TOKENS);
        let uniform = |[low, high]: [u32; 2]| Distribution::uniform(low, high);
        let (input, output) = match (kind, &pairs[..]) {
            ("D" | "d", [[input, output]]) => (uniform([*input, *input]), uniform([*output, *output])),
            ("N" | "n", [input, output]) => (normal(*input), normal(*output)),
            ("U" | "u", [[input, output]]) => (uniform([1, *input]), uniform([1, *output])),
            ("U" | "u", [input, output]) => (uniform(*input), uniform(*output)),
            _ => return Err(wrong()),
        };
        let told = |what: String| format!("`{text}`: {what}");
        Ok(Scenario { name: name.clone(), input: input.map_err(told)?, output: output.map_err(told)? })
    }
}

/// Where to find what genai-bench has scenarios for that are no lengths.
fn elsewhere(text: &str) -> Option<&'static str> {
    match text.trim().split('(').next()? {
        "E" | "e" => Some("texts to embed are --input-len N with --backend openai-embeddings"),
        "R" | "r" => Some("documents to rank are --dataset-name random-rerank"),
        "P" | "p" => Some("prompts behind prefixes are --dataset-name prefix_repetition, or --prefix-len N"),
        "I" | "i" => Some("images are --dataset-name random-mm"),
        _ => None,
    }
}

/// `(100,200)`.
fn pair(text: &str) -> Option<[u32; 2]> {
    let (a, b) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
    Some([a.parse().ok()?, b.parse().ok()?])
}

/// What was drawn for one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn<'a> {
    /// Prompt tokens with those that the server adds, without the shared prefix.
    pub input: u32,
    pub output: u32,
    pub scenario: Option<&'a str>,
}

/// The lengths of all requests of a run.
#[derive(Debug, Clone)]
pub enum Draws {
    /// A length and a ratio; of the prompt what is its own, behind what the server adds.
    Ranges {
        lengths: Lengths,
        overhead: u32,
    },
    Apart {
        input: Distribution,
        output: Distribution,
    },
    Pairs {
        pairs: Vec<(u32, u32)>,
        in_order: bool,
    },
    Scenarios(Vec<Scenario>),
}

impl Draws {
    /// By the flags, whose other lengths are in `ranges`. No prompt is drawn that has no token of its own beside the
    /// `overhead` that the server adds, and no answer without a token, unless nothing is generated.
    pub fn of(
        args: &LengthArgs,
        ranges: Lengths,
        overhead: u32,
        in_order: bool,
        generates: bool,
    ) -> Result<Self, Error> {
        let usage = |what: String| Error::Usage(format!("lengths: {what}"));
        let roomy = |input: &Distribution| input.at_least(overhead + 1).map_err(usage);
        if let Some(path) = &args.lengths {
            return Ok(Draws::Pairs { pairs: pairs(path, generates)?, in_order });
        }
        if !args.scenario.is_empty() {
            let with_room = |s: &Scenario| Ok(Scenario { input: roomy(&s.input)?, ..s.clone() });
            return args.scenario.iter().map(with_room).collect::<Result<_, Error>>().map(Draws::Scenarios);
        }
        if args.input_dist.is_none() && args.output_dist.is_none() {
            return Ok(Draws::Ranges { lengths: ranges, overhead });
        }
        let input = match &args.input_dist {
            Some(input) => roomy(input)?,
            None => ranges.input.distribution(overhead).map_err(usage)?,
        };
        let output = match &args.output_dist {
            Some(output) => output.clone(),
            None => ranges.output.distribution(0).map_err(usage)?,
        };
        Ok(Draws::Apart { input, output })
    }

    /// The lengths of `item`.
    pub fn draw(&self, seed: u64, item: u64) -> Drawn<'_> {
        // Streams of their own: another distribution of the one does not move the other.
        let [mut first, mut second] =
            ["input length", "output length"].map(|name| rng::random_stream(seed, name, item));
        match self {
            Draws::Ranges { lengths, overhead } => {
                let (own, output) = lengths.of(seed, item);
                let input = u32::try_from(own).unwrap_or(u32::MAX).saturating_add(*overhead);
                Drawn { input, output, scenario: None }
            }
            Draws::Apart { input, output } => {
                Drawn { input: input.draw(&mut first), output: output.draw(&mut second), scenario: None }
            }
            Draws::Pairs { pairs, in_order } => {
                let place = if *in_order {
                    super::place(item, pairs.len())
                } else {
                    rng::sample_index(&mut rng::random_stream(seed, "lengths", item), pairs.len())
                };
                let (input, output) = pairs[place];
                Drawn { input, output, scenario: None }
            }
            Draws::Scenarios(scenarios) => {
                let scenario =
                    &scenarios[rng::sample_index(&mut rng::random_stream(seed, "scenario", item), scenarios.len())];
                Drawn {
                    input: scenario.input.draw(&mut first),
                    output: scenario.output.draw(&mut second),
                    scenario: Some(&scenario.name),
                }
            }
        }
    }
}

/// The pairs of a file: 8 bytes are kept of each.
fn pairs(path: &Path, generates: bool) -> Result<Vec<(u32, u32)>, Error> {
    let (input, name) = cli::open_input(path)?;
    let mut table = Table::new(input, name.clone())?;
    let (input, output) = (table.column("input")?, table.column("output")?);
    let mut pairs = Vec::new();
    let count = |table: &Table<_>, column, least: u32| {
        let length = |text: &str| text.parse().ok().filter(|length| (least..=MAX_TOKENS).contains(length));
        table
            .field(column, length)
            .map_err(|e| Error::Input(format!("{e}: lengths are from {least} to {MAX_TOKENS} tokens")))
    };
    while table.advance()? {
        pairs.push((count(&table, input, 1)?, count(&table, output, u32::from(generates))?));
    }
    if pairs.is_empty() {
        return Err(Error::Input(format!("{name} has no pair of lengths")));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::{super::Range, *};

    const SEED: u64 = 3;

    #[test]
    fn scenarios_are_those_of_genai_bench() {
        let scenario: Scenario = "U(50, 100)/(200,250)".parse().unwrap();
        assert_eq!(
            (scenario.name.as_str(), scenario.input),
            ("U(50,100)/(200,250)", Distribution::uniform(50, 100).unwrap())
        );
        let fixed: Scenario = "D(100,64)".parse().unwrap();
        assert_eq!(fixed.output, Distribution::uniform(64, 64).unwrap());
        assert!("N(480,240)/(300,150)".parse::<Scenario>().is_ok());
        let most: Scenario = "U(100,200)".parse().unwrap();
        assert_eq!(
            (most.input, most.output),
            (Distribution::uniform(1, 100).unwrap(), Distribution::uniform(1, 200).unwrap())
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
        let ranges = Lengths { input: Range::around(100, 0.5), output: Range::around(10, 0.0) };
        let draws = |output: &str| {
            let args = LengthArgs { output_dist: Some(output.parse().unwrap()), ..LengthArgs::default() };
            Draws::of(&args, ranges, 7, false, true).unwrap()
        };
        let (a, b) = (draws("normal:50,20"), draws("zipf:1,100"));
        for item in 0..200 {
            let (a, b) = (a.draw(SEED, item), b.draw(SEED, item));
            assert!(a.input == b.input && (57..=157).contains(&a.input));
        }
    }

    #[test]
    fn a_prompt_has_a_token_beside_what_the_server_adds() {
        let args = LengthArgs { input_dist: Some("uniform:1,40".parse().unwrap()), ..LengthArgs::default() };
        let ranges = Lengths { input: Range::around(1, 0.0), output: Range::around(10, 0.0) };
        let draws = Draws::of(&args, ranges, 30, false, true).unwrap();
        assert!((0..200).all(|item| draws.draw(SEED, item).input > 30));
        assert!(Draws::of(&args, ranges, 40, false, true).is_err());
    }
}
