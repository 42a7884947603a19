"""Networks: students, teachers and their export forms."""
