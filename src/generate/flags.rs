//! The flags that belong to one dataset each. Without a dataset that uses them they are refused.

use clap::{Args, Command};

use super::{
    DatasetName, cache_hit::CacheArgs, images::ImageArgs, prefixes::RepetitionArgs, rerank::BatchArgs,
    shared_prefix::SharedArgs, spec_bench::SpecArgs, speed_bench::SpeedArgs,
};
use crate::error::Error;

/// Each is `None` unless one of its flags was given.
#[derive(Debug, clap::Args)]
pub struct DatasetFlags {
    #[command(flatten)]
    repetition: Option<RepetitionArgs>,
    #[command(flatten)]
    shared: Option<SharedArgs>,
    #[command(flatten)]
    pub cache: Option<CacheArgs>,
    #[command(flatten)]
    batch: Option<BatchArgs>,
    #[command(flatten)]
    images: Option<ImageArgs>,
    #[command(flatten)]
    spec: Option<SpecArgs>,
    #[command(flatten)]
    speed: Option<SpeedArgs>,
}

impl DatasetFlags {
    /// Refuses flags that `dataset` has no use for.
    pub fn check(&self, dataset: DatasetName) -> Result<(), Error> {
        use DatasetName::{
            GeneratedSharedPrefix, PrefixRepetition, Random, RandomMm, RandomRerank, SpecBench, SpeedBench,
        };
        for (given, flags, owners, name) in [
            (self.repetition.is_some(), "--prefix-repetition-…", &[PrefixRepetition][..], "prefix_repetition"),
            (self.shared.is_some(), "--gsp-…", &[GeneratedSharedPrefix], "generated-shared-prefix"),
            (self.cache.is_some(), "--cache-…", &[Random], "random"),
            (
                self.batch.is_some(),
                "--random-batch-size and --no-reranker",
                &[Random, RandomRerank],
                "random or random-rerank",
            ),
            (self.images.is_some(), "--random-mm-…", &[RandomMm], "random-mm"),
            (self.spec.is_some(), "--spec-bench-…", &[SpecBench], "spec_bench"),
            (self.speed.is_some(), "--speed-bench-…", &[SpeedBench], "speed_bench"),
        ] {
            if given && !owners.contains(&dataset) {
                return Err(Error::Usage(format!("the flags {flags} work with --dataset-name {name} only")));
            }
        }
        Ok(())
    }

    pub fn repetition(&self) -> Result<RepetitionArgs, Error> {
        or_defaults(self.repetition.as_ref())
    }

    pub fn shared(&self) -> Result<SharedArgs, Error> {
        or_defaults(self.shared.as_ref())
    }

    pub fn batch(&self) -> Result<BatchArgs, Error> {
        or_defaults(self.batch.as_ref())
    }

    pub fn images(&self) -> Result<ImageArgs, Error> {
        or_defaults(self.images.as_ref())
    }

    pub fn spec(&self) -> Result<SpecArgs, Error> {
        or_defaults(self.spec.as_ref())
    }

    pub fn speed(&self) -> Result<SpeedArgs, Error> {
        or_defaults(self.speed.as_ref())
    }
}

/// What was given, or else the defaults, which stand at the flags and nowhere else.
fn or_defaults<A: Args + Clone>(given: Option<&A>) -> Result<A, Error> {
    let Some(given) = given else {
        let nothing: [&str; 0] = [];
        let defaults = A::augment_args(Command::new("vb-gen").no_binary_name(true)).try_get_matches_from(nothing);
        return defaults.and_then(|matches| A::from_arg_matches(&matches)).map_err(|e| Error::Usage(e.to_string()));
    };
    Ok(given.clone())
}
