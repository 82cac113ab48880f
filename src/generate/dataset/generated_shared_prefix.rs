//! `--dataset-name generated-shared-prefix`: groups of questions, each group behind a system prompt of its own.

use clap::Args as _;

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads, no_check};
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

/// The flags of generated-shared-prefix.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_field_names)] // a field is named as its flag
pub struct SharedPrefixFlags {
    /// How many system prompts there are.
    #[arg(long, help_heading = HEADING, value_name = "N", default_value = "64", value_parser = parse_count_u32)]
    gsp_num_groups: u32,
    /// Questions to each, on the average; or say --num-prompts [default: 16].
    #[arg(long, help_heading = HEADING, value_name = "N", value_parser = parse_count_u32)]
    gsp_prompts_per_group: Option<u32>,
    /// Tokens of a system prompt.
    #[arg(long, help_heading = HEADING, value_name = "TOKENS", default_value = "2048", value_parser = parse_tokens)]
    gsp_system_prompt_len: u32,
    /// Tokens of a question, those that the server adds included.
    #[arg(long, help_heading = HEADING, value_name = "TOKENS", default_value = "128", value_parser = parse_tokens)]
    gsp_question_len: u32,
    /// Lengths vary from this share of what was asked for up to it: 1 is no variation.
    #[arg(long, help_heading = HEADING, value_name = "SHARE", default_value = "1", value_parser = parse_share)]
    gsp_range_ratio: f64,
    /// How often each system prompt comes.
    #[arg(long, help_heading = HEADING, value_enum, default_value_t = GroupPopularity::Uniform)]
    gsp_group_distribution: GroupPopularity,
    /// How uneven zipf is: group k of 1, 2, … comes in proportion to 1/k to this power [default: 1].
    #[arg(long, help_heading = HEADING, value_name = "ALPHA", value_parser = parse_alpha)]
    gsp_zipf_alpha: Option<f64>,
    /// Write group after group, instead of shuffled.
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
    check: no_check,
    run,
};

/// How often each group comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GroupPopularity {
    /// Each as often as any other.
    Uniform,
    /// A few often, most seldom.
    Zipf,
}

/// Writes the groups' requests.
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
        // No system prompt at all is a fair thing to compare with, though a range begins at 1.
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
        return wrong("--gsp-num-groups is 1 or more");
    }
    if args.gsp_zipf_alpha.is_some() && !zipf {
        return wrong("--gsp-zipf-alpha goes with --gsp-group-distribution zipf");
    }
    let groups = args.gsp_num_groups;
    let count = match (num_prompts_given, args.gsp_prompts_per_group) {
        (true, Some(_)) => return wrong("--num-prompts and --gsp-prompts-per-group say the same thing: give one"),
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
