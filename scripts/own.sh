# For the other scripts: `own NAME` gives the words that make a run take what a study of this folder found for NAME.
own() { # under another name, for a file called like one of the suite's own is refused
    mkdir -p "$SUITE_RESULTS/own/tuned"
    cp "$SUITE_RESULTS/tuned/$1.yaml" "$SUITE_RESULTS/own/tuned/study_$1.yaml"
    echo "--config-dir $SUITE_RESULTS/own tuned=study_$1"
}

# `keep NAME OPTIONS` puts the runs of this folder into the archive results/reference/NAME (ARCHIVE names another folder),
# with what its studies found; the script of the page reads them there.
keep() {
    archive=${ARCHIVE:-results/reference/$1}
    "$python" -m suite.archive write "$archive" --runs "$SUITE_RESULTS/runs" "${@:2}"
    rm -rf "$archive/tuned"
    cp -r "$SUITE_RESULTS/tuned" "$archive/tuned"
}
