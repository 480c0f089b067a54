//! System calls on trees: folder stacks, listings, attributes. Everything is relative to an open folder and
//! follows no symbolic link, so that neither the depth of a tree nor a hostile name matters.

mod folders;
mod listing;
pub(crate) mod safe;
mod stat;
mod times;
mod xattr;

pub(crate) use folders::FolderStack;
pub(crate) use listing::Listing;
pub(crate) use stat::Stat;
pub use times::TimesHeld;
pub(crate) use xattr::{XattrReader, make_fd_equal, make_name_equal, proc_path, set_on_fd};
