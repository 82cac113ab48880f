//! `--dataset-name generated-shared-prefix`: groups of questions, each group with its own system prompt.

use clap::Args as _;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::{self, LengthRange, PrefixSchedule, PrefixedPrompts, RandomPrompts},
        writer::RequestWriter,
    },
    rng::{self, WeightedIndex},
    units::{parse_alpha, parse_count_u32, parse_share, parse_tokens},
};

const HEADING: &str = "Dataset generated-shared-prefix";

/// Flags of generated-shared-prefix.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_field_names)] // fields have the names of their flags
pub struct SharedPrefixFlags {
    /// Number of groups, each with its own system prompt.
    #[arg(long, help_heading = HEADING, value_name = "N", default_value = "64", value_parser = parse_count_u32)]
    gsp_num_groups: u32,
    /// Average number of questions per group, instead of --num-prompts [default: 16].
    #[arg(long, help_heading = HEADING, value_name = "N", value_parser = parse_count_u32)]
    gsp_prompts_per_group: Option<u32>,
    /// Tokens per system prompt.
    #[arg(long, help_heading = HEADING, value_name = "TOKENS", default_value = "2048", value_parser = parse_tokens)]
    gsp_system_prompt_len: u32,
    /// Tokens per question, including those that the server adds.
    #[arg(long, help_heading = HEADING, value_name = "TOKENS", default_value = "128", value_parser = parse_tokens)]
    gsp_question_len: u32,
    /// Vary lengths from this share of the given lengths up to them; 1 means no variation.
    #[arg(long, help_heading = HEADING, value_name = "SHARE", default_value = "1", value_parser = parse_share)]
    gsp_range_ratio: f64,
    /// How often each group is used.
    #[arg(long, help_heading = HEADING, value_enum, default_value_t = GroupPopularity::Uniform)]
    gsp_group_distribution: GroupPopularity,
    /// Exponent of zipf: group k of 1, 2, … has weight 1/k^ALPHA [default: 1].
    #[arg(long, help_heading = HEADING, value_name = "ALPHA", value_parser = parse_alpha)]
    gsp_zipf_alpha: Option<f64>,
    /// Write group after group instead of shuffling.
    #[arg(long, help_heading = HEADING)]
    gsp_ordered: bool,
}

pub const DATASET: Dataset = Dataset {
    name: "generated-shared-prefix",
    aliases: &["gsp"],
    about: "Groups of random questions, each group with its own system prompt",
    reads: Reads::Nothing,
    lengths: "use --gsp-system-prompt-len, --gsp-question-len and --gsp-range-ratio",
    output: OutputTokens::Default(256),
    apis: Apis::Text,
    takes: &["prompt_token_ids"],
    flags: &[SharedPrefixFlags::augment_args],
    check: None,
    run,
};

/// How often each group is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GroupPopularity {
    /// Equally often.
    Uniform,
    /// A few often, most rarely.
    Zipf,
}

/// Writes the requests of all groups.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let args: SharedPrefixFlags = flags.read_group()?;
    let random = RandomPrompts::from_common(common)?;
    let question = exact::subtract_overhead(
        "--gsp-question-len",
        args.gsp_question_len,
        random.added_tokens(),
        "what the server adds to a prompt",
    )?;
    let [system, question, output] = [args.gsp_system_prompt_len, question, common.output_tokens()]
        .map(|n| LengthRange::up_to(n, args.gsp_range_ratio));
    let prefixed = PrefixedPrompts {
        random,
        uses: PrefixSchedule::new(group_order(common, &args, flags.is_given("num_prompts"))?),
        tag: "group",
    };
    writer.write_numbered(prefixed.uses.count(), |item| {
        let group = u64::from(prefixed.uses.prefix_at(item).0);
        // Range begins at 1, but no system prompt at all is a useful baseline.
        let system = match args.gsp_system_prompt_len {
            0 => 0,
            _ => system.draw_length(&mut rng::random_stream(common.seed, "system", group)) as usize,
        };
        let mut rng = rng::random_stream(common.seed, "lengths", item);
        let question = question.draw_length(&mut rng) as usize;
        let output = output.draw_length(&mut rng);
        prefixed.make_request(common, item, (system, question, output))
    })
}

/// The group of each request.
fn group_order(common: &Common, args: &SharedPrefixFlags, num_prompts_given: bool) -> Result<Vec<u32>, Error> {
    let wrong = |what: &str| Err(Error::Usage(what.into()));
    let zipf = args.gsp_group_distribution == GroupPopularity::Zipf;
    if args.gsp_num_groups == 0 {
        return wrong("--gsp-num-groups must be at least 1");
    }
    if args.gsp_zipf_alpha.is_some() && !zipf {
        return wrong("--gsp-zipf-alpha needs --gsp-group-distribution zipf");
    }
    let groups = args.gsp_num_groups;
    let count = match (num_prompts_given, args.gsp_prompts_per_group) {
        (true, Some(_)) => return wrong("--num-prompts and --gsp-prompts-per-group set the same number: give one"),
        (true, None) => common.num_prompts,
        (false, each) => u64::from(groups) * u64::from(each.unwrap_or(16)),
    };
    PrefixSchedule::check_memory(count, 4, groups)?;
    let mut order = if zipf {
        let popularity = WeightedIndex::from_zipf(1, groups, args.gsp_zipf_alpha.unwrap_or(1.0));
        let draw = |item| {
            let place = popularity.draw_index(&mut rng::random_stream(common.seed, "groups", item));
            u32::try_from(place).unwrap_or_default()
        };
        (0..count).map(draw).collect()
    } else {
        PrefixSchedule::spread_evenly(count, groups)
    };
    if args.gsp_ordered {
        order.sort_unstable();
    } else {
        rng::shuffle_list(&mut order, &mut rng::random_stream(common.seed, "prefixes", 0));
    }
    Ok(order)
}
