//! The features and their weights: all that the predictor learned, in one table.
//! The numbers are written by `cargo xtask predict-cv --write`, from a corpus of recorded sessions.

use std::ops::Index;

macro_rules! features {
    ($($name:ident $weight:literal $what:literal)*) => {
        /// Something that holds for a file or not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Feature {
            $(
                #[doc = $what]
                $name,
            )*
        }

        impl Feature {
            /// Every feature, in the table's order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }

        /// The name, weight and meaning of each feature.
        pub const TABLE: &[(&str, f32, &str)] = &[$((stringify!($name), $weight, $what)),*];
    };
}

/// How many features there are.
pub const FEATURES: usize = Feature::ALL.len();

/// What each feature adds to the natural logarithm of a file's odds, in the order of
/// [`Feature::ALL`].
#[derive(Debug, Clone, PartialEq)]
pub struct Weights(pub [f32; FEATURES]);

impl Weights {
    /// Returns the weights of the table.
    pub fn shipped() -> Self {
        Self(std::array::from_fn(|at| TABLE[at].1))
    }
}

impl Index<Feature> for Weights {
    type Output = f32;

    fn index(&self, feature: Feature) -> &f32 {
        &self.0[feature as usize]
    }
}

features! {
    Always           -0.16  "every file"
    IsSource         -0.27  "it is source code"
    IsTest           -0.45  "it is a test"
    IsDoc            -0.62  "it is a text for people"
    IsConfig         -0.82  "it is configuration or data"
    IsOther          -1.00  "it is something else"
    AfterPrompt       0.00  "no result came since the prompt"
    SearchNamed       0.60  "the result is a search's, which names it"
    SearchSame        0.07  "the result is a search's, and it was read beside it"
    SearchSaid       -0.23  "the result is a search's, and the model just spoke of it"
    SearchOther      -0.66  "the result is a search's, which does not name it"
    ListNamed         0.84  "the result is a listing, which names it"
    ListSaid          0.26  "the result is a listing, and the model just spoke of it"
    ListOther        -0.62  "the result is a listing, which does not name it"
    GitNamed         -0.05  "the result is git's, which names it"
    GitSaid          -0.26  "the result is git's, and the model just spoke of it"
    GitOther         -0.64  "the result is git's, which does not name it"
    FailureNamed      0.33  "a check failed and names it"
    FailureSaid       0.00  "a check failed, and the model just spoke of it"
    FailureOther     -1.21  "a check failed and does not name it"
    CheckNamed       -0.23  "a check passed and names it"
    CheckSaid        -0.22  "a check passed, and the model just spoke of it"
    CheckOther       -0.79  "a check passed and does not name it"
    TextSame         -0.02  "it was just read"
    TextNamed        -0.25  "a file was read that names it"
    TextSaid         -0.44  "a file was read, and the model just spoke of this one"
    TextOther        -0.56  "another file was read"
    EditSame         -0.20  "it was just edited"
    EditFailed       -0.30  "an edit of it failed"
    EditSaid         -1.08  "another was edited, and the model just spoke of this one"
    EditOther        -0.77  "another was edited"
    CommandNamed      0.03  "a command printed its name"
    CommandSaid       0.41  "a command ran, and the model just spoke of it"
    CommandOther     -0.68  "a command ran that does not name it"
    MentionedNow     -0.11  "its latest mention is in this step"
    Mentioned1        0.42  "one step ago"
    Mentioned2        0.24  "two steps ago"
    Mentioned5        0.06  "up to five steps ago"
    Mentioned15      -0.27  "up to fifteen steps ago"
    MentionedLong    -0.86  "longer ago"
    NeverMentioned   -1.55  "it was never mentioned"
    WasInPrompt      -0.39  "that mention is the prompt's"
    WasInWords       -0.72  "that mention is the model's"
    WasInSearch      -0.57  "that mention is a search's"
    WasInList        -0.79  "that mention is a listing's"
    WasInGit         -0.54  "that mention is git's"
    WasInCheck       -0.79  "that mention is a check's"
    WasInText        -1.12  "that mention is in a file"
    WasInEdit        -0.74  "that mention is an edit's"
    WasInCommand     -0.60  "that mention is another command's"
    Rank1            -0.26  "it is named first there"
    Rank3            -0.35  "second or third"
    Rank8            -0.49  "fourth to eighth"
    RankLow          -0.57  "later"
    Alone            -0.14  "nothing else is named there"
    Of3              -0.25  "up to three are named"
    Of8              -0.27  "up to eight are named"
    OfMany           -0.49  "more are named"
    HasLine           0.07  "a line is named with it"
    Mentions1        -0.52  "it was mentioned once at most"
    Mentions2        -0.34  "it was mentioned twice"
    Mentions5        -0.30  "up to five times"
    MentionsMany     -0.18  "more often"
    InPrompt          0.05  "a prompt names it"
    NeverRead        -0.48  "it was never read"
    Reads1           -0.00  "it was read once"
    Reads3            0.31  "it was read two or three times"
    ReadsMany         0.56  "it was read more often"
    ReadNow           0.13  "it was read in this step"
    Read1             0.63  "one step ago"
    Read3             0.44  "up to three steps ago"
    Read10            0.45  "up to ten steps ago"
    ReadLong          0.00  "longer ago"
    ReadWhole        -0.07  "all of it was read and is unchanged"
    ReadPart          0.50  "a part of it was read and is unchanged"
    ReadChanged       0.05  "it was read, and changed since"
    EditedNow        -0.23  "it was edited in this step"
    Edited1          -0.06  "one step ago"
    Edited3          -0.19  "up to three steps ago"
    Edited10          0.02  "up to ten steps ago"
    EditedLong        0.15  "longer ago"
    Edits1            0.01  "it was edited once"
    EditsMany         0.19  "it was edited more often"
    NearRead          0.26  "it lies beside the file read last"
    NearEdited        0.04  "it lies beside the file edited last"
    PairOfRead        0.36  "it tests the file read last, or is tested by it"
    PairOfEdited      0.65  "it tests the file edited last, or is tested by it"
    BareName         -1.02  "it is named without a folder"
    Early            -0.21  "the prompt is up to two steps old"
    Midway           -0.25  "the prompt is up to eight steps old"
    Late             -0.32  "the prompt is older"
    SeveralResults    0.22  "the step had several results"
}
