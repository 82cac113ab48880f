//! `--dataset-name random-mm`: random text followed by images of random noise.

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args as _;
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};
use rand::Rng;
use serde_json::{Value, json};

use super::{
    Apis, Dataset, OutputTokens, OwnFlags, Reads,
    random::{check_lengths, write_random},
};
use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::{LengthFlags, LengthRange},
        writer::RequestWriter,
    },
    record::Object,
    rng::{self, WeightedIndex},
    units::parse_share,
};

const HEADING: &str = "Dataset random-mm";
/// Limits for the images per request, and for the pixels per image: each request must fit in memory.
const MAX_IMAGES: u32 = 1024;
const MAX_PIXELS: u32 = 1 << 26;

/// Flags of random-mm.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_field_names)] // fields have the names of their flags
pub struct ImageFlags {
    /// Images per request.
    #[arg(long, help_heading = HEADING, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_IMAGES)))]
    random_mm_base_items_per_request: u32,
    /// Vary the number of images by up to this ratio in both directions.
    #[arg(long, help_heading = HEADING, value_name = "RATIO", default_value = "0", value_parser = parse_share)]
    random_mm_num_mm_items_range_ratio: f64,
    /// Most items of each kind per request, as limited by the server.
    #[arg(long, help_heading = HEADING, value_name = "JSON", default_value = r#"{"image":255,"video":1}"#)]
    random_mm_limit_mm_per_prompt: ImageLimits,
    /// Sizes of images, as `(height,width,frames)` or `HEIGHTxWIDTH`, with their weights.
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "JSON",
        default_value = r#"{"(256,256,1)":0.5,"(720,1280,1)":0.5}"#
    )]
    random_mm_bucket_config: ImageSizes,
}

pub const DATASET: Dataset = Dataset {
    name: "random-mm",
    aliases: &[],
    about: "Random text with images of noise, for chats",
    reads: Reads::Nothing,
    lengths: "use --input-len, --prefix-len and --range-ratio",
    output: OutputTokens::Default(128),
    apis: Apis::Chat,
    takes: &["input_len", "prefix_len", "range_ratio"],
    flags: &[LengthFlags::augment_args, ImageFlags::augment_args],
    check: Some(check_lengths),
    run,
};

/// Most images per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ImageLimits {
    image: u32,
}

impl FromStr for ImageLimits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a limit: write {{\"image\":255}}");
        let object: Object = serde_json::from_str(text).map_err(|_| wrong())?;
        if let Some(key) = object.keys().find(|key| !matches!(key.as_str(), "image" | "video")) {
            return Err(format!("unknown kind `{key}`: use image or video"));
        }
        let limit = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong);
        object.values().try_for_each(|value| limit(value).map(drop))?;
        // As with the server's flag of that name, a kind that is not mentioned has no limit.
        Ok(ImageLimits { image: object.get("image").map_or(Ok(u32::MAX), limit)? })
    }
}

/// Sizes of images in pixels, with their weights.
#[derive(Debug, Clone, PartialEq)]
struct ImageSizes {
    sizes: Vec<ImageSize>,
    weighted: WeightedIndex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ImageSize {
    height: u16,
    width: u16,
}

impl FromStr for ImageSizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let quoted = if text.contains('"') { text.to_owned() } else { from_python(text) };
        let object: Object = serde_json::from_str(&quoted).map_err(|_| {
            format!(
                "`{text}` is not a set of sizes: write {{\"(256,256,1)\":0.5,\"(720,1280,1)\":0.5}} or {{\"256x256\":1}}"
            )
        })?;
        let (mut sizes, mut weights) = (Vec::new(), Vec::new());
        for (key, weight) in &object {
            let weight = weight.as_f64().filter(|weight| *weight >= 0.0);
            let weight = weight.ok_or_else(|| format!("the weight of `{key}` must be 0 or more"))?;
            let size = parse_size(key)?;
            if weight > 0.0 {
                let size = size.ok_or_else(|| {
                    format!(
                        "`{key}` is a video, which vb-gen does not support: give it weight 0, or 1 frame for an image"
                    )
                })?;
                sizes.push(size);
                weights.push(weight);
            }
        }
        if sizes.is_empty() {
            return Err(format!("all weights of `{text}` are 0"));
        }
        if !weights.iter().sum::<f64>().is_finite() {
            return Err(format!("the sum of the weights of `{text}` is too large"));
        }
        Ok(ImageSizes { sizes, weighted: WeightedIndex::new(weights) })
    }
}

/// Converts Python's notation, which vLLM accepts, to JSON: keys are not quoted, and `.5` is a number.
fn from_python(text: &str) -> String {
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    dense.replace('(', "\"(").replace(')', ")\"").replace(":.", ":0.").replace(",}", "}")
}

impl ImageSizes {
    fn draw_size(&self, rng: &mut impl Rng) -> ImageSize {
        self.sizes[self.weighted.draw_index(rng)]
    }
}

/// Parses `(256,256,1)` or `256x256`; `None` for a video.
fn parse_size(key: &str) -> Result<Option<ImageSize>, String> {
    let wrong =
        || format!("`{key}` is not a size: write (height,width,frames) or HEIGHTxWIDTH, up to 65535 pixels each");
    let parts: Vec<u16> = key
        .trim()
        .trim_start_matches('(')
        .trim_end_matches(')')
        .split([',', 'x'])
        .map(|part| part.trim().parse().ok().filter(|n| *n > 0))
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    match parts[..] {
        [height, width] | [height, width, 1] if u32::from(height) * u32::from(width) > MAX_PIXELS => {
            Err(format!("`{key}` is too large: at most {MAX_PIXELS} pixels"))
        }
        [height, width] | [height, width, 1] => Ok(Some(ImageSize { height, width })),
        [_, _, _] => Ok(None),
        _ => Err(wrong()),
    }
}

/// Makes an image of noise as a content part of a chat message.
fn noise_image(size: ImageSize, rng: &mut impl Rng) -> Result<Value, Error> {
    let mut pixels = vec![0; usize::from(size.height) * usize::from(size.width) * 3];
    rng.fill_bytes(&mut pixels);
    let mut jpeg = Vec::new();
    // The default quality and chroma subsampling of Pillow, which vLLM uses.
    let mut encoder = Encoder::new(&mut jpeg, 75);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder
        .encode(&pixels, size.width, size.height, ColorType::Rgb)
        .map_err(|e| Error::Usage(format!("an image of {}x{} pixels: {e}", size.height, size.width)))?;
    let url = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
    Ok(json!({"type": "image_url", "image_url": {"url": url}}))
}

/// Writes `--num-prompts` random requests with images.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let args: ImageFlags = flags.read_group()?;
    let limit = args.random_mm_limit_mm_per_prompt.image;
    let base = args.random_mm_base_items_per_request;
    let Some(range) = LengthRange::from_ratio_up_to(base, args.random_mm_num_mm_items_range_ratio, limit) else {
        return Err(Error::Usage(format!(
            "--random-mm-base-items-per-request {base} exceeds the limit of {limit} images in --random-mm-limit-mm-per-prompt"
        )));
    };
    write_random(common, &flags.read_group()?, writer, |item, request| {
        let mut rng = rng::random_stream(common.seed, "images", item);
        let images = (0..range.draw_length(&mut rng))
            .map(|_| noise_image(args.random_mm_bucket_config.draw_size(&mut rng), &mut rng))
            .collect::<Result<Vec<Value>, Error>>()?;
        request.multi_modal_data = (!images.is_empty()).then(|| images.into());
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_vllms_notation_and_in_a_short_one() {
        let want = ImageSizes {
            sizes: vec![ImageSize { height: 256, width: 128 }, ImageSize { height: 720, width: 1280 }],
            weighted: WeightedIndex::new([0.5, 0.25]),
        };
        for text in [
            r#"{"(256,128,1)":0.5,"(720, 1280, 1)":0.25,"(720,1280,16)":0}"#,
            "{(256, 128, 1): 0.5, (720, 1280, 1): 0.25, (720, 1280, 16): 0.0}",
            r#"{"256x128":0.5,"720x1280x1":0.25}"#,
            "{(256,128,1): .5, (720,1280,1):.25,}",
        ] {
            assert_eq!(text.parse(), Ok(want.clone()), "{text}");
        }
        for (text, word) in [
            (r#"{"(720,1280,16)":1}"#, "is a video"),
            (r#"{"256x0":1}"#, "is not a size"),
            (r#"{"256":1}"#, "is not a size"),
            (r#"{"256x256":-1}"#, "0 or more"),
            (r#"{"256x256":0}"#, "all weights"),
            (r#"{"8x8":1e308,"16x8":1e308}"#, "sum of the weights"),
            (r#"{"8193x8192":1}"#, "at most 67108864 pixels"),
            ("256x256", "is not a set of sizes"),
        ] {
            let error = text.parse::<ImageSizes>().unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn limits_are_of_known_kinds() {
        assert_eq!(r#"{"image":3,"video":0}"#.parse(), Ok(ImageLimits { image: 3 }));
        assert_eq!("{}".parse(), Ok(ImageLimits { image: u32::MAX }));
        assert!(r#"{"sound":3}"#.parse::<ImageLimits>().is_err() && r#"{"image":-3}"#.parse::<ImageLimits>().is_err());
    }

    #[test]
    fn sizes_are_drawn_by_weight() {
        let buckets: ImageSizes = r#"{"8x8":3,"16x8":1}"#.parse().unwrap();
        let mut rng = rng::random_stream(1, "test", 0);
        let tall = (0..4000).filter(|_| buckets.draw_size(&mut rng).height == 16).count();
        assert!((900..1100).contains(&tall), "{tall}");
    }
}
