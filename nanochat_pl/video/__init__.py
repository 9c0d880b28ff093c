"""What the videos in remotion/ show: figures of a run or a sweep as JSON, and the calls that draw them."""
