"""What a run leaves behind: records, scores, checkpoint, result, model."""
