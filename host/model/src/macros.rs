//! Macros for shapes that recur in every crate of the host: settings with defaults, and enums with names.

/// Structs of settings: each field with its default beside it.
///
/// ```
/// umbel_model::settings! {
///     /// Limits of a log.
///     #[derive(Debug)]
///     pub struct LogLimits {
///         pub lines: u32 = 1_000,
///         /// One line, bytes.
///         pub line_bytes: usize = 8 << 10,
///     }
/// }
/// assert_eq!(LogLimits::default().lines, 1_000);
/// ```
#[macro_export]
macro_rules! settings {
    ($($(#[$meta:meta])* $vis:vis struct $type:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $of:ty = $default:expr,)*
    })*) => {$(
        $(#[$meta])*
        $vis struct $type { $($(#[$field_meta])* $field_vis $field: $of,)* }

        impl Default for $type {
            fn default() -> Self { Self { $($field: $default,)* } }
        }
    )*};
}

/// An enum by its variants and their names, which are the same in JSON, in stored texts and on the command line. It gets
/// `ALL`, the variants in their order; `as_str` and `from_name`; and `FromStr`, whose error lists the names. The caller's
/// crate needs serde.
///
/// ```
/// umbel_model::named_enum! {
///     pub enum Level {
///         Low = "low",
///         /// More than enough.
///         High = "high",
///     }
/// }
/// assert_eq!(Level::from_name("high"), Some(Level::High));
/// ```
#[macro_export]
macro_rules! named_enum {
    ($(#[$of_enum:meta])* $vis:vis enum $name:ident { $($(#[$of_variant:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$of_enum])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        $vis enum $name {
            $($(#[$of_variant])* #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }

            /// The variant of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|variant| variant.as_str() == name)
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(name: &str) -> Result<Self, String> {
                Self::from_name(name).ok_or_else(|| format!("use one of {}", Self::ALL.map(Self::as_str).join(", ")))
            }
        }
    };
}
