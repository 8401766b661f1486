"""The table of drafters. A new drafter is one new file here and one line in DRAFTERS; `spec` parses what users type."""

DRAFTERS = {
    "none": "outpace.drafters.none:NoDrafter",
    "blind": "outpace.drafters.blind:BlindDrafter",
    "prompt_lookup": "outpace.drafters.prompt_lookup:PromptLookupDrafter",
    "suffix": "outpace.drafters.suffix.drafter:SuffixDrafter",
    "recycling": "outpace.drafters.recycling:RecyclingDrafter",
    "lookahead": "outpace.drafters.lookahead:LookaheadDrafter",
    "blanks": "outpace.drafters.blanks.drafter:BlanksDrafter",
    "prediction": "outpace.drafters.prediction:PredictionDrafter",
    "draft_model": "outpace.drafters.draft_model.drafter:DraftModelDrafter",
    "medusa": "outpace.drafters.medusa:MedusaDrafter",
    "eagle": "outpace.drafters.eagle:EagleDrafter",
}
ENTRY_POINT_GROUP = "outpace.drafters"
AUTO = "auto"  # auto[:SPEC]: drafts what the cost model says is worth verifying, with the drafters of SPEC
AUTO_DRAFTERS = "suffix+recycling"
