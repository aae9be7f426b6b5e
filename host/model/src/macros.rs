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

/// An enum whose variants have names: the same in JSON, in `as_str` and in `from_name`. The caller's crate needs serde.
///
/// ```
/// umbel_model::named_enum! {
///     #[derive(Debug, Clone, Copy, PartialEq)]
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
    ($(#[$meta:meta])* $vis:vis enum $type:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $name:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(serde::Serialize, serde::Deserialize)]
        $vis enum $type { $($(#[$variant_meta])* #[serde(rename = $name)] $variant,)* }

        impl $type {
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The one of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.as_str() == name)
            }
        }
    };
}
