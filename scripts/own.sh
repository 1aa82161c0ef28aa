# For the other scripts: `own NAME` gives the words that make a run take what a study of this folder found for NAME.
own() { # under another name, for a file called like one of the suite's own is refused
    mkdir -p "$SUITE_RESULTS/own/tuned"
    cp "$SUITE_RESULTS/tuned/$1.yaml" "$SUITE_RESULTS/own/tuned/study_$1.yaml"
    echo "--config-dir $SUITE_RESULTS/own tuned=study_$1"
}
