if captures == 1 and account ~= '' and not state then
	local w = wallet(account)
	if w and not make_hold(w, id, fee, app, message) then
		return redis.error_reply(NO_FIT)
	end
end
return settle(id, outcome, message)
