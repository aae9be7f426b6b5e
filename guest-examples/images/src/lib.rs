//! Decodes a real PNG or JPEG, makes a thumbnail, and encodes it; puts many thumbnails onto one sheet. Images are blobs.

use std::io::{Cursor, Write as _};

use image::{
    DynamicImage, GenericImage as _, ImageFormat, ImageReader, Limits, Rgb, RgbImage, codecs::jpeg::JpegEncoder,
};
use umbel::{Blob, blob, prelude::*};

/// Pixels along either side: larger ones would not fit the memory of the policy.
const MAX_SIDE: u32 = 8_192;
/// Most memory of the decoder; the file and the thumbnail need the rest.
const MAX_DECODED_BYTES: u64 = 96 << 20;
/// Of a file, bytes.
const MAX_FILE_BYTES: usize = 64 << 20;

/// The formats that can be read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Png,
    Jpeg,
}

/// Facts about an image.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Info {
    pub format: Format,
    pub width: u32,
    pub height: u32,
    /// Bits of one pixel.
    pub bits_per_pixel: u16,
    pub has_alpha: bool,
    pub size_bytes: u64,
}

/// An encoded image.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Encoded {
    pub format: Format,
    pub width: u32,
    pub height: u32,
    pub image: Blob,
}

/// Says what an image is: decodes it, so a damaged file is found out.
#[task(memory = "192MiB", fuel = "50G")]
pub fn info(
    /// A PNG or JPEG file.
    image: Blob,
) -> TaskResult<Info> {
    let bytes = image.read_bytes(MAX_FILE_BYTES)?;
    let (format, decoded) = decode(&bytes)?;
    let color = decoded.color();
    Ok(Info {
        format,
        width: decoded.width(),
        height: decoded.height(),
        bits_per_pixel: color.bits_per_pixel(),
        has_alpha: color.has_alpha(),
        size_bytes: bytes.len() as u64,
    })
}

/// Makes an image fit into a square, keeping its proportions; a smaller one keeps its size.
#[task(memory = "192MiB", fuel = "50G", time_limit = "1m", result_ttl = "1h")]
pub fn thumbnail(
    ctx: &Context,
    /// A PNG or JPEG file.
    image: Blob,
    /// Pixels along the longer side.
    #[default(256)]
    max_side: u32,
    /// The format of the thumbnail; that of the image when left out.
    format: Option<Format>,
    /// Of a JPEG, 1 to 100.
    #[default(85)]
    quality: u8,
) -> TaskResult<Encoded> {
    if max_side == 0 || max_side > MAX_SIDE || quality == 0 || quality > 100 {
        let problem = format!("max_side is 1 to {MAX_SIDE} and quality 1 to 100, not {max_side} and {quality}");
        return Err(Fatal::new(problem).kind("BadArgument").into());
    }
    ctx.progress(0, 3, "decoding");
    let (source, decoded) = decode(&image.read_bytes(MAX_FILE_BYTES)?)?;
    ctx.progress(1, 3, "scaling");
    let fits = decoded.width() <= max_side && decoded.height() <= max_side;
    let small = if fits { decoded } else { decoded.thumbnail(max_side, max_side) };
    ctx.progress(2, 3, "encoding");
    let format = format.unwrap_or(source);
    let image = encode(&small, format, quality)?;
    ctx.progress(3, 3, "done");
    Ok(Encoded { format, width: small.width(), height: small.height(), image })
}

/// Images on one sheet.
const MAX_CELLS: usize = 1_000;
/// Pixels along either side of one image on a sheet.
const MAX_CELL: u32 = 512;
/// Pixels between two images, and around them.
const GAP: u32 = 4;

/// A sheet of thumbnails.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Sheet {
    pub sheet: Encoded,
    /// Images on it.
    pub images: u32,
    /// Stands for an image that could not be made: its place, and the reason.
    pub missing: Vec<Missing>,
}

/// An image that is not on the sheet.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Missing {
    /// Counted from 0, in the order of the images.
    pub place: u32,
    pub why: String,
}

/// Puts thumbnails onto one JPEG, in their order: the body of a chord whose members are `thumbnail`, with `on_failure`
/// `continue`, so that one bad file leaves one cell empty.
#[task(memory = "192MiB", fuel = "50G", time_limit = "1m")]
pub fn contact_sheet(
    ctx: &Context,
    thumbnails: Vec<Settled<Option<Encoded>>>,
    #[default(8)] columns: u32,
    /// Pixels along either side of a cell; larger images are made smaller.
    #[default(128)]
    cell: u32,
) -> TaskResult<Sheet> {
    if columns == 0 || cell == 0 || cell > MAX_CELL || thumbnails.len() > MAX_CELLS {
        let problem = format!("at least 1 column, a cell of 1 to {MAX_CELL} pixels, and at most {MAX_CELLS} images");
        return Err(Fatal::new(problem).kind("BadArgument").into());
    }
    let count = u32::try_from(thumbnails.len())?;
    let (wide, high) = (columns.min(count.max(1)), count.div_ceil(columns).max(1));
    let side = |cells: u32| cells.saturating_mul(cell + GAP).saturating_add(GAP);
    if side(wide).max(side(high)) > MAX_SIDE {
        return Err(Fatal::new(format!("the sheet would be larger than {MAX_SIDE} pixels")).kind("BadArgument").into());
    }
    let mut sheet = RgbImage::from_pixel(side(wide), side(high), Rgb([255; 3]));
    let mut missing = Vec::new();
    for (place, thumbnail) in (0..count).zip(thumbnails) {
        ctx.progress(place.into(), count.into(), "placing");
        match cell_of(thumbnail, cell) {
            Ok(image) => {
                let at = |index: u32, size: u32| GAP + index * (cell + GAP) + (cell - size) / 2;
                let (x, y) = (at(place % columns, image.width()), at(place / columns, image.height()));
                sheet.copy_from(&image, x, y)?;
            }
            Err(why) => missing.push(Missing { place, why }),
        }
    }
    let (width, height) = sheet.dimensions();
    let image = encode(&sheet.into(), Format::Jpeg, 80)?;
    let sheet = Encoded { format: Format::Jpeg, width, height, image };
    Ok(Sheet { sheet, images: count - missing.len() as u32, missing })
}

/// A thumbnail that fits into a cell, or why there is none.
fn cell_of(thumbnail: Settled<Option<Encoded>>, cell: u32) -> Result<RgbImage, String> {
    let encoded = thumbnail.into_result().map_err(|error| format!("{}: {}", error.kind, error.message))?;
    let encoded = encoded.ok_or("it was left out")?;
    let bytes = encoded.image.read_bytes(MAX_FILE_BYTES).map_err(|error| error.to_string())?;
    let (_, image) = decode(&bytes).map_err(|error| error.message().to_owned())?;
    let fits = image.width() <= cell && image.height() <= cell;
    Ok(if fits { image.to_rgb8() } else { image.thumbnail(cell, cell).to_rgb8() })
}

/// Makes thumbnails of up to 32 images side by side, and a sheet of them: a job may refer to as many blobs.
#[task(memory = "64MiB")]
pub fn gallery(
    ctx: &Context,
    /// PNG or JPEG files.
    images: Vec<Blob>,
    #[default(8)] columns: u32,
    #[default(128)] cell: u32,
) -> TaskResult<Sheet> {
    let thumbnails = images.into_iter().map(|image| thumbnail::s(image, cell, Format::Jpeg, 85));
    let thumbnails = group(thumbnails).on_failure(OnFailure::Continue).label("thumbnails");
    ctx.replace(chord![thumbnails, contact_sheet::p(columns, cell)])
}

/// The same file fails the same way every time.
fn bad_image(problem: impl std::fmt::Display) -> TaskError {
    Fatal::new(problem.to_string()).kind("BadImage").into()
}

fn decode(bytes: &[u8]) -> TaskResult<(Format, DynamicImage)> {
    // The content decides and not a name.
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let format = match reader.format() {
        Some(ImageFormat::Png) => Format::Png,
        Some(ImageFormat::Jpeg) => Format::Jpeg,
        _ => return Err(bad_image("neither a PNG nor a JPEG")),
    };
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    Ok((format, reader.decode().map_err(bad_image)?))
}

/// Writes an image into a blob.
fn encode(image: &DynamicImage, format: Format, quality: u8) -> TaskResult<Blob> {
    let mut bytes = Cursor::new(Vec::new());
    match format {
        Format::Png => image.write_to(&mut bytes, ImageFormat::Png)?,
        // A JPEG has no alpha and eight bits a channel.
        Format::Jpeg => JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&image.to_rgb8())?,
    }
    let mut file = blob::create_typed(match format {
        Format::Png => "image/png",
        Format::Jpeg => "image/jpeg",
    })?;
    file.write_all(bytes.get_ref())?;
    Ok(file.finish()?)
}

umbel::module![info, thumbnail, contact_sheet, gallery, permissions: ["blob"]];

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG of one transparent pixel, made by other software.
    const ONE_PIXEL: [u8; 70] = [
        0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00, 0x00,
        0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x08, 0x06, 0x00, 0x00, 0x00, 0x1f, 0x15, 0xc4, 0x89, 0x00, 0x00, 0x00,
        0x0d, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0x64, 0xf8, 0xcf, 0x50, 0x0f, 0x00, 0x03, 0x86, 0x01, 0x80,
        0x5a, 0x34, 0x7d, 0x6b, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
    ];

    fn one_pixel() -> Blob {
        blob::fake().put(ONE_PIXEL)
    }

    /// Red grows to the right, blue downwards.
    fn gradient(width: u32, height: u32, format: Format) -> Blob {
        let image = image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 255 / width) as u8, 0, (y * 255 / height) as u8])
        });
        encode(&image.into(), format, 90).unwrap()
    }

    #[test]
    fn info_tells_what_a_file_is() {
        let one = info(one_pixel()).unwrap();
        assert_eq!((one.format, one.width, one.height, one.has_alpha), (Format::Png, 1, 1, true));
        let photo = info(gradient(640, 480, Format::Jpeg)).unwrap();
        assert_eq!((photo.format, photo.width, photo.height, photo.bits_per_pixel), (Format::Jpeg, 640, 480, 24));
    }

    #[test]
    fn a_thumbnail_keeps_the_proportions_and_the_picture() {
        for format in [Format::Png, Format::Jpeg] {
            let ctx = Context::fake();
            let small = thumbnail(&ctx, gradient(800, 400, format), 200, None, 85).unwrap();
            assert_eq!((small.format, small.width, small.height), (format, 200, 100));
            let (_, pixels) = decode(&small.image.read_bytes(MAX_FILE_BYTES).unwrap()).unwrap();
            let pixels = pixels.to_rgb8();
            let (left, right) = (pixels.get_pixel(5, 50), pixels.get_pixel(195, 50));
            assert!(left[0] < 30 && right[0] > 225, "{left:?} {right:?}");
            assert_eq!(ctx.progress_reports().len(), 4);
        }
    }

    #[test]
    fn a_small_image_keeps_its_size_and_may_change_its_format() {
        let same = thumbnail(&Context::fake(), gradient(20, 10, Format::Png), 256, Some(Format::Jpeg), 85).unwrap();
        assert_eq!((same.format, same.width, same.height), (Format::Jpeg, 20, 10));
        assert_eq!(info(same.image).unwrap().format, Format::Jpeg);
    }

    #[test]
    fn a_sheet_has_the_thumbnails_in_their_order_and_says_which_are_missing() {
        let red = encode(&RgbImage::from_pixel(40, 20, Rgb([255, 0, 0])).into(), Format::Png, 90).unwrap();
        let made = |image: Blob| thumbnail(&Context::fake(), image, 20, None, 85).map(Some).unwrap();
        let failed = r#"{"error": {"kind": "BadImage", "message": "no PNG", "node": 3}}"#;
        let failed: Settled<Option<Encoded>> = umbel::serde_json::from_str(failed).unwrap();
        let thumbnails =
            vec![Settled::Value(made(one_pixel())), failed, Settled::Value(made(red)), Settled::Value(None)];
        let sheet = contact_sheet(&Context::fake(), thumbnails, 2, 20).unwrap();
        assert_eq!((sheet.images, sheet.sheet.width, sheet.sheet.height), (2, 52, 52));
        let missing: Vec<_> = sheet.missing.iter().map(|m| (m.place, m.why.as_str())).collect();
        assert_eq!(missing, [(1, "BadImage: no PNG"), (3, "it was left out")]);
        let (_, pixels) = decode(&sheet.sheet.image.read_bytes(MAX_FILE_BYTES).unwrap()).unwrap();
        // The third image is the first of the second row, in the middle of its cell.
        let pixel = pixels.to_rgb8().get_pixel(14, 38).0;
        assert!(pixel[0] > 200 && pixel[1] < 60, "{pixel:?}");
        let empty = contact_sheet(&Context::fake(), vec![], 8, 128).unwrap();
        assert_eq!((empty.images, empty.missing.len()), (0, 0));
        assert!(contact_sheet(&Context::fake(), vec![], 0, 128).unwrap_err().is_fatal());
    }

    #[test]
    fn a_gallery_is_a_chord_of_thumbnails() {
        let ctx = Context::fake();
        let other = blob::fake().put("%%%");
        gallery(&ctx, vec![one_pixel(), other.clone()], 4, 64).unwrap_err();
        let chord = ctx.replacement().unwrap();
        assert_eq!(chord["chord"][1]["args"], umbel::serde_json::json!([other, 64, "jpeg", 85]));
        assert_eq!(
            (chord["on_failure"].as_str(), chord["body"]["task"].as_str()),
            (Some("continue"), Some("contact_sheet"))
        );
    }

    #[test]
    fn damaged_files_and_absurd_sizes_fail_for_good() {
        let png = gradient(64, 64, Format::Png).read_bytes(MAX_FILE_BYTES).unwrap();
        let truncated = png[..png.len() / 2].to_vec();
        // The header of a PNG says how wide it is, at byte 16.
        let mut wide = ONE_PIXEL.to_vec();
        wide[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        for bad in [b"%%%".to_vec(), b"GIF89a".to_vec(), truncated, wide] {
            let error = info(blob::fake().put(bad)).unwrap_err();
            assert_eq!((error.kind(), error.is_fatal()), (Some("BadImage"), true), "{}", error.message());
        }
        let gone = one_pixel();
        blob::fake().delete(&gone);
        assert_eq!(info(gone).unwrap_err().kind(), Some("blob:not_found"));
        let error = thumbnail(&Context::fake(), one_pixel(), 0, None, 85).unwrap_err();
        assert_eq!(error.kind(), Some("BadArgument"));
    }

    #[test]
    fn the_format_is_described_as_its_two_names() {
        let described = umbel_module::describe();
        let format = &described[1].parameters[2];
        assert_eq!(format.default.as_deref(), Some("null"));
        assert!(format.schema.contains(r#""png""#) && format.schema.contains(r#""jpeg""#), "{}", format.schema);
    }
}
